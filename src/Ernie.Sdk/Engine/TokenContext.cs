using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>The tokens of a conversation, how each is computed, and the blocks that hold their keys and values. It outlives a request where a conversation goes on.</summary>
internal sealed class TokenContext
{
    private const int BlockSize = KvBlockLayout.BlockSize;
    private readonly List<TokenRun> _runs = [];
    private readonly List<UInt128> _keys = [];

    public List<int> Tokens { get; } = [];
    public IReadOnlyList<TokenRun> Runs => _runs;
    /// <summary>
    /// Tokens at the end that are computed together with the next prompt: the last one of an answer, which nobody has computed yet, or what a cut has left of a block that chose together.
    /// </summary>
    public int OpenTokens { get; private set; }
    public List<int> BlockTable { get; } = [];
    /// <summary>Positions whose keys and values are in the cache.</summary>
    public int Computed { get; private set; }
    /// <summary>Leading blocks that the cache knows under their keys.</summary>
    public int PublishedBlocks { get; set; }

    /// <summary>
    /// Whether blocks came from a file. A checksum is no signature: what a file says of the tokens' keys and values holds for its own conversation, and no other one is to read it under their name.
    /// </summary>
    public bool IsFromFile { get; private set; }

    /// <summary>Adds a prompt. Open tokens join it.</summary>
    public void Append(ReadOnlySpan<int> tokens, SparseLimits limits)
    {
        var start = Tokens.Count - OpenTokens;
        CutRuns(start);
        OpenTokens = 0;
        Tokens.AddRange(tokens);
        AddRun(new TokenRun(start, Tokens.Count, false, limits));
    }

    /// <summary>Adds a token of the answer.</summary>
    public void Add(int token, SparseLimits limits)
    {
        Tokens.Add(token);
        OpenTokens = 1;
        AddRun(new TokenRun(Tokens.Count - 1, Tokens.Count, true, limits));
    }

    /// <summary>Positions before <paramref name="position"/> are in the cache.</summary>
    public void Advance(int position)
    {
        Computed = position;
        if (position == Tokens.Count) OpenTokens = 0;
    }

    /// <summary>The cache holds nothing, or only the beginning, of this context any more.</summary>
    public void Lose(int position)
    {
        Computed = position;
        PublishedBlocks = Math.Min(PublishedBlocks, position / BlockSize);
        // Everything is computed anew.
        if (position == 0) IsFromFile = false;
    }

    /// <summary>
    /// What comes next: positions from <see cref="Computed"/> to <c>End</c>, as parts of a prompt or, one at a time, as decode steps. Decoded tokens of a context that lost its cache are taken together
    /// where their attention is dense.
    /// </summary>
    public (int End, bool IsDecode, SparseLimits Limits) Next()
    {
        var index = _runs.Count - 1;
        while (_runs[index].Start > Computed) index--;
        var run = _runs[index];
        if (!run.IsDecoded) return (run.End, false, run.Limits);
        var end = Computed;
        while (end < run.End && run.IsDense(end)) end++;
        return end > Computed + 1 ? (end, false, run.Limits) : (Computed + 1, true, run.Limits);
    }

    /// <summary>
    /// The name of a block's contents: its tokens, all tokens before them, and the limits where they matter. False where the block is not full, or holds keys and values that another request
    /// with the same tokens would not compute: those of decoded tokens and cut blocks under sparse attention, and all that rest on a file.
    /// </summary>
    public bool TryKey(int block, out UInt128 key)
    {
        key = default;
        if (IsFromFile) return false;
        while (_keys.Count <= block && Tokens.Count >= (_keys.Count + 1) * BlockSize && IsShareable(_keys.Count)) _keys.Add(Hash(_keys.Count));
        var known = block < _keys.Count;
        key = known ? _keys[block] : default;
        return known;
    }

    /// <summary>
    /// Drops the tokens from <paramref name="count"/> on. A token keeps its keys and values unless it chose blocks together with a dropped one.
    /// </summary>
    public void Cut(int count)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)count, (uint)Tokens.Count, nameof(count));
        if (count == Tokens.Count) return;
        var index = _runs.FindIndex(run => count <= run.End);
        var last = index < 0 ? default : _runs[index];
        var kept = count;
        if (!last.IsDecoded && count < last.End && count % BlockSize != 0 && !last.Limits.PrefillIsDense(count / BlockSize)) kept = Math.Max(last.Start, count - count % BlockSize);
        Tokens.RemoveRange(count, Tokens.Count - count);
        CutRuns(count);
        Lose(Math.Min(Computed, kept));
        OpenTokens = count - kept;
        if (_keys.Count > count / BlockSize) _keys.RemoveRange(count / BlockSize, _keys.Count - count / BlockSize);
    }

    /// <summary>The same tokens, computed the same way, with nothing in the cache yet.</summary>
    public TokenContext Copy()
    {
        var copy = new TokenContext();
        copy.Tokens.AddRange(Tokens);
        copy._runs.AddRange(_runs);
        copy._keys.AddRange(_keys);
        copy.OpenTokens = OpenTokens;
        copy.IsFromFile = IsFromFile;
        return copy;
    }

    /// <summary>A context as it was saved.</summary>
    public static TokenContext Of(ReadOnlySpan<int> tokens, IEnumerable<TokenRun> runs, int openTokens)
    {
        var context = new TokenContext { OpenTokens = openTokens, IsFromFile = true };
        context.Tokens.AddRange(tokens);
        context._runs.AddRange(runs);
        return context;
    }

    private void AddRun(TokenRun run)
    {
        if (run.Start == run.End) return;
        if (_runs.Count > 0 && _runs[^1] is var last && last.IsDecoded && run.IsDecoded && last.Limits == run.Limits) _runs[^1] = last with { End = run.End };
        else _runs.Add(run);
    }

    private void CutRuns(int count)
    {
        while (_runs.Count > 0 && _runs[^1].Start >= count) _runs.RemoveAt(_runs.Count - 1);
        if (_runs.Count > 0) _runs[^1] = _runs[^1] with { End = Math.Min(_runs[^1].End, count) };
    }

    private bool IsShareable(int block)
    {
        int begin = block * BlockSize, end = begin + BlockSize;
        foreach (var run in _runs)
        {
            if (run.End <= begin) continue;
            if (run.Start >= end) break;
            // One whole block of a prompt chooses together, wherever the prompt began.
            if (!run.IsDecoded && run.Start <= begin && run.End >= end) return true;
            if (!run.IsDense(Math.Min(end, run.End) - 1)) return false;
        }
        return true;
    }

    private UInt128 Hash(int block)
    {
        // key before, three limits, 128 tokens
        Span<byte> text = stackalloc byte[16 + 3 * sizeof(int) + BlockSize * sizeof(int)];
        text.Clear();
        if (block > 0) MemoryMarshal.Write(text, _keys[block - 1]);
        var limits = _runs.Find(run => run.End > block * BlockSize).Limits;
        if (!limits.PrefillIsDense(block))
        {
            MemoryMarshal.Write(text[16..], limits.EncoderTopKLeft);
            MemoryMarshal.Write(text[20..], limits.EncoderTopKRight);
            MemoryMarshal.Write(text[24..], limits.EncoderLimit);
        }
        MemoryMarshal.AsBytes(CollectionsMarshal.AsSpan(Tokens).Slice(block * BlockSize, BlockSize)).CopyTo(text[28..]);
        Span<byte> hash = stackalloc byte[SHA256.HashSizeInBytes];
        SHA256.HashData(text, hash);
        return MemoryMarshal.Read<UInt128>(hash);
    }
}
