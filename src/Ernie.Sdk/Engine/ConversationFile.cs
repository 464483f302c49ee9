using System.Buffers;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>A conversation on disk: its tokens, how they were computed, and their keys and values row by row, whatever the kernels of the day want in a block.</summary>
/// <remarks>
/// <code>
/// "ERNIEKV1", length of the header (int32), header (JSON)
/// tokens        [tokens] int32
/// for every block, for every layer, n the positions of the block that are computed
///   keys        [n, kvHeads, headDim]   element type of the cache, rotated
///   values      [n, kvHeads, headDim]   element type of the cache
///   scales      [2, kvHeads, n] float   of an int8 cache: keys', then values'
///   key sums    [2, kvHeads, headDim]   float; plain, then gated
/// SHA-256 of everything before
/// </code>
/// </remarks>
internal static unsafe class ConversationFile
{
    private const int MaxHeaderBytes = 64 << 20;
    private static ReadOnlySpan<byte> Magic => "ERNIEKV1"u8;

    /// <summary>What tells a model from another: its weights.</summary>
    public static string Fingerprint(ModelManifest manifest)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var tensor in manifest.Tensors) hash.AppendData(Encoding.UTF8.GetBytes($"{tensor.Name} {tensor.Format} {tensor.Sha256}\n"));
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    /// <summary>Writes a context whose blocks nobody changes meanwhile. The file appears when it is whole.</summary>
    public static void Write(string path, TokenContext context, KvCache cache, string fingerprint, CancellationToken cancellationToken)
    {
        var layout = cache.Layout;
        var header = new ConversationHeader(fingerprint, layout.ElementType, cache.LayerCount, layout.KvHeadCount, layout.HeadDim, context.Tokens.Count, context.Computed, context.OpenTokens,
            [.. context.Runs.Select(static run => new SavedRun(run.End, run.IsDecoded, [run.Limits.EncoderTopKLeft, run.Limits.EncoderTopKRight, run.Limits.EncoderLimit, run.Limits.DecoderTopKLeft, run.Limits.DecoderTopKRight, run.Limits.DecoderLimit]))]);
        var json = JsonSerializer.SerializeToUtf8Bytes(header, ConversationJson.Default.ConversationHeader);
        var full = System.IO.Path.GetFullPath(path);
        if (System.IO.Path.GetDirectoryName(full) is not { } folder || Directory.Exists(full)) throw new IOException($"{full} is a folder. Name a file in it for the conversation.");
        if (!Directory.Exists(folder)) throw new DirectoryNotFoundException($"The conversation cannot be saved as {full}: there is no folder {folder}.");
        var partial = $"{full}.{Guid.NewGuid():N}.partial";
        try
        {
            using (var file = new FileStream(partial, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1 << 16))
            using (var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256))
            {
                Put(Magic);
                Put(BitConverter.GetBytes(json.Length));
                Put(json);
                Put(MemoryMarshal.AsBytes(CollectionsMarshal.AsSpan(context.Tokens)));
                var rows = new byte[Bytes(layout, KvBlockLayout.BlockSize)];
                var block = new byte[layout.BlockBytes];
                for (var first = 0; first < context.Computed; first += KvBlockLayout.BlockSize)
                {
                    cancellationToken.ThrowIfCancellationRequested();
                    var count = Math.Min(KvBlockLayout.BlockSize, context.Computed - first);
                    for (var layer = 0; layer < cache.LayerCount; layer++)
                    {
                        fixed (byte* target = rows, source = block)
                        {
                            cache.Read(layer, context.BlockTable[first / KvBlockLayout.BlockSize], source);
                            Move(layout, source, count, target, toBlock: false);
                        }
                        Put(rows.AsSpan(0, Bytes(layout, count)));
                    }
                }
                file.Write(hash.GetHashAndReset());
                file.Flush(flushToDisk: true);

                void Put(ReadOnlySpan<byte> bytes)
                {
                    hash.AppendData(bytes);
                    file.Write(bytes);
                }
            }
            File.Move(partial, full, overwrite: true);
        }
        catch
        {
            File.Delete(partial);
            throw;
        }
    }

    /// <summary>Checks a whole file and reads its header and tokens.</summary>
    /// <exception cref="InvalidDataException">The file is damaged, or belongs to another model or cache.</exception>
    public static (ConversationHeader Header, int[] Tokens) Read(string path, KvCache cache, ErnieConfig config, int contextLength, string fingerprint, CancellationToken cancellationToken)
    {
        using var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1 << 16);
        var (header, offset) = ReadHeader(file, path);
        var layout = cache.Layout;
        if (header.Model != fingerprint) throw new InvalidDataException($"{path} was saved with another model. Load the model it was saved with, or start a new conversation.");
        if (header.KvType != layout.ElementType) throw new InvalidDataException($"{path} holds a cache of {header.KvType}, this model runs with {layout.ElementType}. Set ErnieModelOptions.KvCacheType to it.");
        if (header.Layers != cache.LayerCount || header.KvHeads != layout.KvHeadCount || header.HeadDim != layout.HeadDim) throw Damaged(path, "the header does not fit the model");
        if (header.TokenCount > contextLength) throw new InvalidDataException($"{path} holds {header.TokenCount} tokens, the context has {contextLength}. Raise ErnieModelOptions.ContextLength and KvCacheBytes.");
        var wanted = offset + (long)header.TokenCount * sizeof(int) + PayloadBytes(header, layout) + SHA256.HashSizeInBytes;
        if (file.Length != wanted) throw Damaged(path, $"it has {file.Length} bytes instead of {wanted}");

        // Before anything of it is used: a damaged cache would answer nonsense.
        file.Position = 0;
        using (var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256))
        {
            var buffer = ArrayPool<byte>.Shared.Rent(1 << 20);
            for (var left = wanted - SHA256.HashSizeInBytes; left > 0;)
            {
                cancellationToken.ThrowIfCancellationRequested();
                var read = file.Read(buffer.AsSpan(0, (int)Math.Min(buffer.Length, left)));
                if (read == 0) throw Damaged(path, "it ends early");
                hash.AppendData(buffer.AsSpan(0, read));
                left -= read;
            }
            ArrayPool<byte>.Shared.Return(buffer);
            Span<byte> stored = stackalloc byte[SHA256.HashSizeInBytes];
            file.ReadExactly(stored);
            if (!stored.SequenceEqual(hash.GetHashAndReset())) throw Damaged(path, "its checksum differs");
        }
        var tokens = new int[header.TokenCount];
        file.Position = offset;
        file.ReadExactly(MemoryMarshal.AsBytes(tokens.AsSpan()));
        if (Array.Exists(tokens, token => (uint)token >= (uint)config.VocabSize)) throw Damaged(path, "it holds tokens outside the vocabulary");
        return (header, tokens);
    }

    /// <summary>Fills blocks with the beginning of a file that <see cref="Read"/> has checked.</summary>
    public static void Fill(string path, IReadOnlyList<int> blocks, KvCache cache, CancellationToken cancellationToken)
    {
        using var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1 << 16);
        var (header, offset) = ReadHeader(file, path);
        file.Position = offset + (long)header.TokenCount * sizeof(int);
        var rows = new byte[Bytes(cache.Layout, KvBlockLayout.BlockSize)];
        var block = new byte[cache.Layout.BlockBytes];
        for (var b = 0; b < blocks.Count; b++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var count = Math.Min(KvBlockLayout.BlockSize, header.Computed - b * KvBlockLayout.BlockSize);
            for (var layer = 0; layer < cache.LayerCount; layer++)
            {
                file.ReadExactly(rows.AsSpan(0, Bytes(cache.Layout, count)));
                fixed (byte* source = rows, target = block)
                {
                    // Behind a block's last position is nothing.
                    Array.Clear(block);
                    Move(cache.Layout, target, count, source, toBlock: true);
                    cache.Write(layer, blocks[b], target);
                }
            }
        }
    }

    /// <exception cref="InvalidDataException">The bytes are no header of ours, or an impossible one.</exception>
    private static (ConversationHeader Header, long Offset) ReadHeader(FileStream file, string path)
    {
        Span<byte> start = stackalloc byte[12];
        if (file.ReadAtLeast(start, start.Length, throwOnEndOfStream: false) < start.Length || !start[..8].SequenceEqual(Magic)) throw new InvalidDataException($"{path} is no saved conversation.");
        var length = MemoryMarshal.Read<int>(start[8..]);
        if (length is <= 0 or > MaxHeaderBytes || length > file.Length - start.Length) throw Damaged(path, "its header is too long");
        var json = new byte[length];
        file.ReadExactly(json);
        ConversationHeader? header;
        try
        {
            header = JsonSerializer.Deserialize(json, ConversationJson.Default.ConversationHeader);
        }
        catch (JsonException e)
        {
            throw Damaged(path, e.Message);
        }
        if (header is null) throw Damaged(path, "its header is empty");
        var sane = header.TokenCount is >= 0 and <= 1 << 28 && header.Computed >= 0 && header.Computed <= header.TokenCount && header.OpenTokens >= 0 && header.OpenTokens <= header.TokenCount && header.Runs is not null && header.Model is not null
            && header.Layers is > 0 and <= 4096 && header.KvHeads is > 0 and <= 4096 && header.HeadDim is > 0 and <= 4096 && Enum.IsDefined(header.KvType);
        var end = 0;
        foreach (var run in sane ? header.Runs! : [])
        {
            sane &= run?.Limits is [var left, var right, var limit, var decoderLeft, var decoderRight, var decoderLimit] && run.End > end && IsPossible(left, right, limit) && IsPossible(decoderLeft, decoderRight, decoderLimit);
            if (!sane) break;
            end = run!.End;
        }
        if (!sane || end != header.TokenCount) throw Damaged(path, "its header is impossible");
        return (header, start.Length + length);

        static bool IsPossible(int left, int right, int limit) => left == 0 || (left > 0 && right >= left && limit >= (long)left * KvBlockLayout.BlockSize);
    }

    private static InvalidDataException Damaged(string path, string how) => new($"{path} is damaged: {how}. Save the conversation again.");

    private static long PayloadBytes(ConversationHeader header, KvBlockLayout layout)
    {
        var full = header.Computed / KvBlockLayout.BlockSize;
        var rest = header.Computed % KvBlockLayout.BlockSize;
        return checked(header.Layers * ((long)full * Bytes(layout, KvBlockLayout.BlockSize) + (rest == 0 ? 0 : Bytes(layout, rest))));
    }

    /// <summary>Bytes of <paramref name="count"/> positions of one layer of a block.</summary>
    private static int Bytes(KvBlockLayout layout, int count) => checked(
        2 * count * layout.KvHeadCount * layout.HeadDim * layout.ElementBytes + (layout.HasScales ? 2 * layout.KvHeadCount * count * sizeof(float) : 0) + 2 * layout.KvHeadCount * layout.HeadDim * sizeof(float));

    /// <summary>Between a block and its rows, in either direction.</summary>
    private static void Move(KvBlockLayout layout, byte* block, int count, byte* rows, bool toBlock)
    {
        var size = layout.ElementBytes;
        for (var p = 0; p < count; p++)
        {
            for (var h = 0; h < layout.KvHeadCount; h++)
            {
                for (var c = 0; c < layout.HeadDim; c++, rows += size) Copy(block + layout.Key(h, p, c), rows, size, toBlock);
            }
        }
        var rowBytes = layout.HeadDim * size;
        for (var p = 0; p < count; p++)
        {
            for (var h = 0; h < layout.KvHeadCount; h++, rows += rowBytes) Copy(block + layout.Value(h, p), rows, rowBytes, toBlock);
        }
        for (var h = 0; layout.HasScales && h < layout.KvHeadCount; h++, rows += count * sizeof(float)) Copy(block + layout.KeyScale(h, 0), rows, count * sizeof(float), toBlock);
        for (var h = 0; layout.HasScales && h < layout.KvHeadCount; h++, rows += count * sizeof(float)) Copy(block + layout.ValueScale(h, 0), rows, count * sizeof(float), toBlock);
        for (var h = 0; h < layout.KvHeadCount; h++, rows += layout.HeadDim * sizeof(float)) Copy(block + layout.KeySum(h), rows, layout.HeadDim * sizeof(float), toBlock);
        for (var h = 0; h < layout.KvHeadCount; h++, rows += layout.HeadDim * sizeof(float)) Copy(block + layout.GatedSum(h), rows, layout.HeadDim * sizeof(float), toBlock);
    }

    private static void Copy(byte* block, byte* rows, int bytes, bool toBlock)
    {
        var (source, target) = toBlock ? ((nint)rows, (nint)block) : ((nint)block, (nint)rows);
        new ReadOnlySpan<byte>((void*)source, bytes).CopyTo(new Span<byte>((void*)target, bytes));
    }
}

/// <summary>What a saved conversation says of itself.</summary>
internal sealed record ConversationHeader(string Model, KvElementType KvType, int Layers, int KvHeads, int HeadDim, int TokenCount, int Computed, int OpenTokens, IReadOnlyList<SavedRun> Runs)
{
    public IEnumerable<TokenRun> TokenRuns()
    {
        var start = 0;
        foreach (var run in Runs)
        {
            yield return new TokenRun(start, run.End, run.IsDecoded, new SparseLimits(run.Limits[0], run.Limits[1], run.Limits[2], run.Limits[3], run.Limits[4], run.Limits[5]));
            start = run.End;
        }
    }
}

/// <summary>A <see cref="TokenRun"/>; it starts where the one before it ends.</summary>
internal sealed record SavedRun(int End, bool IsDecoded, int[] Limits);

[JsonSourceGenerationOptions(UseStringEnumConverter = true, PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, MaxDepth = 8, RespectNullableAnnotations = true, RespectRequiredConstructorParameters = true)]
[JsonSerializable(typeof(ConversationHeader))]
internal sealed partial class ConversationJson : JsonSerializerContext;
