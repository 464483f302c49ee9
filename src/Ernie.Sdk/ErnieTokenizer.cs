using System.Buffers;
using Ernie.Sdk.Chat.Templates;
using Ernie.Sdk.Tokenization;
using Microsoft.ML.Tokenizers;

namespace Ernie.Sdk;

/// <summary>The tokenizer of an ERNIE 4.5 checkpoint: SentencePiece BPE with byte fallback, exact to the id.</summary>
/// <remarks>
/// Text is ordinary text unless a call says otherwise: a string such as <c>&lt;/s&gt;</c> in it never becomes a control token, and no begin or end
/// token is added. Safe for concurrent use.
/// </remarks>
public sealed class ErnieTokenizer : Tokenizer
{
    private static readonly string[] _modelFiles = ["tokenizer.model", "spm.model", "ernie_token_100k.model"];

    private readonly AddedTokens _added;
    private readonly BpeEncoder _bpe;
    private readonly Dictionary<int, byte> _bytes = [];

    private ErnieTokenizer(SentencePieceModel model, AddedTokens added)
    {
        (Model, _added) = (model, added);
        _bpe = new BpeEncoder(model, added.Ids);
        if (model.ByteFallback)
        {
            for (var value = 0; value < 256; value++) _bytes[model.ByteId((byte)value)] = (byte)value;
        }
        VocabularySize = Math.Max(model.PieceCount, added.Ids.DefaultIfEmpty().Max() + 1);
        BosTokenId = Resolve("bos_token", "<s>", model.BosId);
        EosTokenId = Resolve("eos_token", "</s>", model.EosId);
        ClsTokenId = Resolve("cls_token", "<|begin_of_sentence|>", -1);
        SepTokenId = Resolve("sep_token", "<|end_of_sentence|>", -1);
    }

    /// <summary>The highest id that has a token, plus one. The model's embedding may have more rows.</summary>
    public int VocabularySize { get; }

    /// <summary>Id of the <c>bos_token</c>, or null if the vocabulary has none. Encoding never adds it.</summary>
    public int? BosTokenId { get; }

    /// <summary>Id of the <c>eos_token</c>, with which the model ends its turn, or null if the vocabulary has none.</summary>
    public int? EosTokenId { get; }

    /// <summary>Id of the <c>cls_token</c>, which begins a conversation, or null if the vocabulary has none.</summary>
    public int? ClsTokenId { get; }

    /// <summary>Id of the <c>sep_token</c>, which ends an earlier turn of the assistant, or null if the vocabulary has none.</summary>
    public int? SepTokenId { get; }

    internal SentencePieceModel Model { get; }

    /// <summary>Loads the tokenizer of a checkpoint: <c>tokenizer.model</c> and, where present, the JSON files beside it.</summary>
    /// <param name="folder">The checkpoint's folder.</param>
    /// <exception cref="DirectoryNotFoundException">There is no such folder.</exception>
    /// <exception cref="FileNotFoundException">The folder has no SentencePiece model.</exception>
    /// <exception cref="NotSupportedException">The folder has a tokenizer.json only.</exception>
    /// <exception cref="InvalidDataException">A file is damaged, or of a kind that ERNIE does not use.</exception>
    public static ErnieTokenizer Load(string folder)
    {
        ArgumentException.ThrowIfNullOrEmpty(folder);
        var path = FindModel(folder) ?? throw Missing(folder);
        var length = new FileInfo(path).Length;
        if (length > SentencePieceModel.MaximumFileBytes) throw SentencePieceModel.Invalid(path, $"it has {length} bytes, more than the limit of {SentencePieceModel.MaximumFileBytes}");
        var model = SentencePieceModel.Parse(File.ReadAllBytes(path), path);
        return new ErnieTokenizer(model, AddedTokens.Read(folder, model));
    }

    /// <summary>Whether the folder has a SentencePiece model that <see cref="Load"/> would read.</summary>
    /// <param name="folder">The checkpoint's folder.</param>
    public static bool Exists(string folder) => !string.IsNullOrEmpty(folder) && FindModel(folder) is not null;

    /// <summary>Encodes text, with or without looking for control and other added tokens in it.</summary>
    /// <param name="text">The text.</param>
    /// <param name="allowSpecialTokens">Whether strings such as <c>&lt;/s&gt;</c> become their tokens. Never true for text from users.</param>
    public IReadOnlyList<int> EncodeToIds(string text, bool allowSpecialTokens)
    {
        ArgumentNullException.ThrowIfNull(text);
        if (allowSpecialTokens) return Encode(new PromptText(text));
        var ids = new List<int>();
        _bpe.Encode(text, ids);
        return ids;
    }

    /// <summary>Decodes ids. Bytes that are no UTF-8 give U+FFFD each; ids without a token give nothing.</summary>
    /// <param name="ids">The ids.</param>
    /// <param name="skipSpecialTokens">Whether special tokens are left out. The tags of reasoning and tool calls are not special.</param>
    public string Decode(IEnumerable<int> ids, bool skipSpecialTokens)
    {
        ArgumentNullException.ThrowIfNull(ids);
        var decoder = new StreamingDecoder(this, skipSpecialTokens);
        foreach (var id in ids) decoder.Push(id);
        return decoder.Finish();
    }

    /// <inheritdoc />
    public override string Decode(IEnumerable<int> ids) => Decode(ids, skipSpecialTokens: false);

    /// <inheritdoc />
    public override OperationStatus Decode(IEnumerable<int> ids, Span<char> destination, out int idsConsumed, out int charsWritten)
    {
        ArgumentNullException.ThrowIfNull(ids);
        var decoder = new StreamingDecoder(this, skipSpecialTokens: false);
        idsConsumed = charsWritten = 0;
        var read = 0;
        foreach (var id in ids)
        {
            if (!IsDefined(id)) return OperationStatus.InvalidData;
            if (!TryWrite(decoder.Append(id), destination, ref charsWritten)) return OperationStatus.DestinationTooSmall;
            idsConsumed = ++read - decoder.PendingCount;
        }
        if (!TryWrite(decoder.Finish(), destination, ref charsWritten)) return OperationStatus.DestinationTooSmall;
        idsConsumed = read;
        return OperationStatus.Done;
    }

    /// <summary>The id of a token in the vocabulary's own spelling (a space is U+2581), or null if there is none.</summary>
    /// <param name="token">The token's text.</param>
    public int? TokenToId(string token)
    {
        ArgumentNullException.ThrowIfNull(token);
        if (_added.TryGetId(token, out var id)) return id;
        return Model.TryGetId(token, out id) && !_added.TryGet(id, out _) ? id : null;
    }

    /// <summary>The token of an id in the vocabulary's own spelling, or null if there is none.</summary>
    /// <param name="id">The id.</param>
    public string? IdToToken(int id)
    {
        if (_added.TryGet(id, out var added)) return added.Content;
        return TryGetPiece(id, out var piece) ? piece : null;
    }

    /// <summary>Whether the id has a token. Rows of the model's output that have none must not be sampled.</summary>
    /// <param name="id">The id.</param>
    public bool IsDefined(int id) => (uint)id < (uint)Model.PieceCount || _added.TryGet(id, out _);

    /// <summary>Whether the id is a special token, which decoding can leave out.</summary>
    /// <param name="id">The id.</param>
    public bool IsSpecial(int id) => _added.TryGet(id, out var added) && added.IsSpecial;

    /// <summary>Encodes a prompt as one text. Added tokens are matched outside the ranges that came from input.</summary>
    internal List<int> Encode(in PromptText prompt)
    {
        var text = prompt.Text.AsSpan();
        var ids = new List<int>();
        var runStart = 0;
        var literalStart = 0;
        foreach (var (start, end) in prompt.InputRanges)
        {
            EncodeLiteral(text, literalStart, start, ref runStart, ids);
            literalStart = end;
        }
        EncodeLiteral(text, literalStart, text.Length, ref runStart, ids);
        _bpe.Encode(text[runStart..], ids);
        return ids;
    }

    internal bool TryGetAdded(int id, out AddedToken token) => _added.TryGet(id, out token);

    internal bool TryGetByte(int id, out byte value) => _bytes.TryGetValue(id, out value) && !_added.TryGet(id, out _);

    internal bool TryGetPiece(int id, out string piece)
    {
        piece = (uint)id < (uint)Model.PieceCount ? Model.Piece(id) : "";
        return piece.Length > 0;
    }

    /// <inheritdoc />
    protected override EncodeResults<int> EncodeToIds(string? text, ReadOnlySpan<char> textSpan, EncodeSettings settings)
    {
        var span = text ?? textSpan;
        var ids = new List<int>();
        if (settings.MaxTokenCount == int.MaxValue)
        {
            _bpe.Encode(span, ids);
            return new EncodeResults<int> { Tokens = ids, CharsConsumed = span.Length };
        }
        var cut = EncodeFirst(span, settings.MaxTokenCount, ids, []);
        return new EncodeResults<int> { Tokens = ids, CharsConsumed = cut };
    }

    /// <inheritdoc />
    protected override EncodeResults<EncodedToken> EncodeToTokens(string? text, ReadOnlySpan<char> textSpan, EncodeSettings settings)
    {
        var ids = new List<int>();
        var ranges = new List<(int Start, int End)>();
        var cut = EncodeFirst(text ?? textSpan, settings.MaxTokenCount, ids, ranges);
        var tokens = new List<EncodedToken>(ids.Count);
        for (var i = 0; i < ids.Count; i++) tokens.Add(new EncodedToken(ids[i], Model.Piece(ids[i]), ranges[i].Start..ranges[i].End));
        return new EncodeResults<EncodedToken> { Tokens = tokens, CharsConsumed = cut };
    }

    /// <inheritdoc />
    protected override int CountTokens(string? text, ReadOnlySpan<char> textSpan, EncodeSettings settings) =>
        EncodeToIds(text, textSpan, settings).Tokens.Count;

    /// <inheritdoc />
    protected override int GetIndexByTokenCount(
        string? text, ReadOnlySpan<char> textSpan, EncodeSettings settings, bool fromEnd, out string? normalizedText, out int tokenCount)
    {
        normalizedText = null;
        var span = text ?? textSpan;
        var ids = new List<int>();
        var ranges = new List<(int Start, int End)>();
        if (!fromEnd)
        {
            var cut = EncodeFirst(span, settings.MaxTokenCount, ids, ranges);
            tokenCount = ids.Count;
            return cut;
        }

        _bpe.Encode(span, ids, ranges);
        var first = Math.Max(0, ids.Count - settings.MaxTokenCount);
        while (first > 0 && first < ids.Count && ranges[first] == ranges[first - 1] && ranges[first].Start < ranges[first].End) first++;
        tokenCount = ids.Count - first;
        return first == 0 ? 0 : first == ids.Count ? span.Length : ranges[first].Start;
    }

    /// <summary>Encodes at most so many tokens, whole characters only, and returns how much of the text they stand for.</summary>
    private int EncodeFirst(ReadOnlySpan<char> text, int maximum, List<int> ids, List<(int Start, int End)> ranges)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(maximum, "maxTokenCount");
        _bpe.Encode(text, ids, ranges);
        if (ids.Count <= maximum) return text.Length;
        var count = maximum;
        while (count > 0 && ranges[count] == ranges[count - 1] && ranges[count].Start < ranges[count].End) count--;
        ids.RemoveRange(count, ids.Count - count);
        ranges.RemoveRange(count, ranges.Count - count);
        return count == 0 ? 0 : ranges[count - 1].End;
    }

    private void EncodeLiteral(ReadOnlySpan<char> text, int start, int end, ref int runStart, List<int> ids)
    {
        for (var i = start; i < end;)
        {
            if (!_added.Matcher.CanStart(text[i]) || _added.Matcher.Match(text[i..end], out var id) is not (> 0 and var length))
            {
                i++;
                continue;
            }
            _bpe.Encode(text[runStart..i], ids);
            ids.Add(id);
            runStart = i += length;
        }
    }

    private int? Resolve(string name, string common, int trained)
    {
        if (_added.Named(name) is { } text && TokenToId(text) is { } named) return named;
        if (IsDefined(trained)) return trained;
        return TokenToId(common);
    }

    private static bool TryWrite(string text, Span<char> destination, ref int written)
    {
        if (!text.TryCopyTo(destination[written..])) return false;
        written += text.Length;
        return true;
    }

    private static string? FindModel(string folder) => _modelFiles.Select(name => Path.Combine(folder, name)).FirstOrDefault(File.Exists);

    private static Exception Missing(string folder)
    {
        if (!Directory.Exists(folder)) return new DirectoryNotFoundException($"There is no folder {Path.GetFullPath(folder)}. Give the folder of an ERNIE 4.5 checkpoint.");
        if (File.Exists(Path.Combine(folder, "tokenizer.json")))
        {
            return new NotSupportedException(
                $"{Path.GetFullPath(folder)} has a tokenizer.json, which is not read, but no tokenizer.model. Copy tokenizer.model from the same model's -PT or -Paddle repository beside it.");
        }
        return new FileNotFoundException(
            $"{Path.GetFullPath(folder)} has no tokenizer: none of {string.Join(", ", _modelFiles)}. Copy tokenizer.model and the JSON files beside it from the checkpoint.",
            Path.Combine(folder, _modelFiles[0]));
    }
}
