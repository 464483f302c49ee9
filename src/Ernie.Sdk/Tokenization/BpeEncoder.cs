using System.Buffers;
using System.Runtime.InteropServices;
using System.Text;

namespace Ernie.Sdk.Tokenization;

/// <summary>
/// SentencePiece's BPE, exact. Text is ordinary text here: control pieces and the ids in <c>unreachable</c> never come out. Safe for concurrent use.
/// </summary>
/// <remarks>
/// Two cuts save work without changing a result. A character that occurs in no longer piece, or a user-defined string, is a boundary that no merge
/// crosses. And where no piece has U+2581 after another character, none crosses the begin of a run of U+2581. What stands between two cuts is a word.
/// </remarks>
internal sealed class BpeEncoder
{
    private const int StackSymbols = 128;

    private readonly SentencePieceModel _model;
    private readonly SymbolTable _symbols;
    private readonly MergeTable _merges;
    private readonly LongestMatcher _userDefined = new();
    private readonly WhitespaceNormalizer _normalizer;
    private readonly WordCache _cache = new();
    private readonly bool _spacesBeginWords = true;
    private readonly bool _hasUnused;

    public BpeEncoder(SentencePieceModel model, IReadOnlySet<int> unreachable)
    {
        _model = model;
        _symbols = new SymbolTable(model, unreachable);
        _merges = MergeTableBuilder.Build(model, _symbols, unreachable);
        for (var id = 0; id < model.PieceCount; id++)
        {
            if (model.Type(id) == PieceType.UserDefined && !unreachable.Contains(id)) _userDefined.Add(model.Piece(id), id);
            if (!SymbolTable.IsReachable(model, unreachable, id)) continue;
            _hasUnused |= model.Type(id) == PieceType.Unused;
            var piece = model.Piece(id).AsSpan().TrimStart(WhitespaceNormalizer.SpaceMark);
            _spacesBeginWords &= !piece.Contains(WhitespaceNormalizer.SpaceMark);
        }
        _normalizer = new WhitespaceNormalizer(model.AddDummyPrefix, model.RemoveExtraWhitespaces, model.EscapeWhitespaces, _userDefined);
    }

    public void Encode(ReadOnlySpan<char> text, List<int> ids)
    {
        if (text.IsEmpty) return;
        var rented = ArrayPool<char>.Shared.Rent(text.Length + 1);
        try
        {
            var length = _normalizer.Normalize(text, rented, []);
            EncodeNormalized(rented.AsSpan(0, length), ids);
        }
        finally
        {
            ArrayPool<char>.Shared.Return(rented);
        }
    }

    /// <summary>Encodes, and gives for each token the range of <paramref name="text"/> it stands for; the byte tokens of one character share its range.</summary>
    public void Encode(ReadOnlySpan<char> text, List<int> ids, List<(int Start, int End)> ranges)
    {
        if (text.IsEmpty) return;
        var normalized = new char[text.Length + 1];
        var origins = new int[text.Length + 1];
        var length = _normalizer.Normalize(text, normalized, origins);
        var first = ids.Count;
        EncodeNormalized(normalized.AsSpan(0, length), ids);
        TokenAligner.Align(_model, CollectionsMarshal.AsSpan(ids)[first..], normalized.AsSpan(0, length), origins, text.Length, ranges);
    }

    private void EncodeNormalized(ReadOnlySpan<char> text, List<int> ids)
    {
        var first = ids.Count;
        if (_hasUnused) EncodeUncut(text, ids);
        else EncodeWords(text, ids);
        if (!_model.ByteFallback) CollapseUnknown(ids, first);
    }

    private void EncodeWords(ReadOnlySpan<char> text, List<int> ids)
    {
        var wordStart = 0;
        for (var i = 0; i < text.Length;)
        {
            var c = text[i];
            if (_userDefined.CanStart(c) && _userDefined.Match(text[i..], out var userDefinedId) is var matched and > 0)
            {
                EncodeWord(text[wordStart..i], ids);
                ids.Add(userDefinedId);
                wordStart = i += matched;
                continue;
            }

            var symbol = NextSymbol(text, i, out var joins, out var length);
            if (!joins)
            {
                EncodeWord(text[wordStart..i], ids);
                Emit(symbol, ids, null);
                wordStart = i += length;
                continue;
            }
            if (c == WhitespaceNormalizer.SpaceMark && _spacesBeginWords && i > wordStart && text[i - 1] != WhitespaceNormalizer.SpaceMark)
            {
                EncodeWord(text[wordStart..i], ids);
                wordStart = i;
            }
            i += length;
        }
        EncodeWord(text[wordStart..], ids);
    }

    private void EncodeWord(ReadOnlySpan<char> word, List<int> ids)
    {
        if (word.IsEmpty) return;
        if (word.Length > WordCache.MaximumWordLength)
        {
            EncodeSymbols(word, ids, null);
            return;
        }
        if (_cache.TryGet(word, out var known, out var slot))
        {
            ids.AddRange(known);
            return;
        }
        var first = ids.Count;
        EncodeSymbols(word, ids, null);
        _cache.Store(slot, word, CollectionsMarshal.AsSpan(ids)[first..]);
    }

    /// <summary>Which halves an unused piece falls back into depends on the whole text, so nothing is cut or remembered.</summary>
    private void EncodeUncut(ReadOnlySpan<char> text, List<int> ids) => EncodeSymbols(text, ids, []);

    private void EncodeSymbols(ReadOnlySpan<char> text, List<int> ids, Dictionary<int, (int Left, int Right)>? halves)
    {
        int[]? rented = null;
        var symbols = text.Length <= StackSymbols ? stackalloc int[StackSymbols] : rented = ArrayPool<int>.Shared.Rent(text.Length);
        try
        {
            var count = 0;
            for (var i = 0; i < text.Length;)
            {
                // Merges know no user-defined piece, so it stays whole.
                if (_userDefined.CanStart(text[i]) && _userDefined.Match(text[i..], out var userDefinedId) is var matched and > 0)
                {
                    symbols[count++] = userDefinedId;
                    i += matched;
                    continue;
                }
                symbols[count++] = NextSymbol(text, i, out _, out var length);
                i += length;
            }
            count = new SymbolMerger(_merges, halves).Merge(symbols[..count]);
            foreach (var symbol in symbols[..count]) Emit(symbol, ids, halves);
        }
        finally
        {
            if (rented is not null) ArrayPool<int>.Shared.Return(rented);
        }
    }

    private int NextSymbol(ReadOnlySpan<char> text, int index, out bool joins, out int length)
    {
        var c = text[index];
        length = char.IsHighSurrogate(c) ? 2 : 1;
        return _symbols.Find(length == 2 ? char.ConvertToUtf32(c, text[index + 1]) : c, out joins);
    }

    private void Emit(int symbol, List<int> ids, Dictionary<int, (int Left, int Right)>? halves)
    {
        if (_symbols.IsPieceless(symbol, out var scalar))
        {
            if (!_model.ByteFallback)
            {
                ids.Add(_model.UnknownId);
                return;
            }
            Span<byte> utf8 = stackalloc byte[4];
            foreach (var b in utf8[..new Rune(scalar).EncodeToUtf8(utf8)]) ids.Add(_model.ByteId(b));
        }
        else if (halves is not null && _model.Type(symbol) == PieceType.Unused && halves.TryGetValue(symbol, out var pair))
        {
            Emit(pair.Left, ids, halves);
            Emit(pair.Right, ids, halves);
        }
        else
        {
            ids.Add(symbol);
        }
    }

    /// <summary>SentencePiece writes one unknown token for a run of unknown characters.</summary>
    private void CollapseUnknown(List<int> ids, int first)
    {
        var kept = first;
        for (var i = first; i < ids.Count; i++)
        {
            if (i > first && ids[i] == _model.UnknownId && ids[i - 1] == _model.UnknownId) continue;
            ids[kept++] = ids[i];
        }
        ids.RemoveRange(kept, ids.Count - kept);
    }
}
