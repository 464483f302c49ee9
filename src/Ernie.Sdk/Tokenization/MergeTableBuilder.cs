using System.Text;

namespace Ernie.Sdk.Tokenization;

/// <summary>
/// Finds every pair of symbols whose texts together are a piece. Rolling hashes make each cut of a piece cost O(1), so a file full of long pieces loads
/// in bounded time.
/// </summary>
internal sealed class MergeTableBuilder
{
    // The real vocabulary has 182,926; a file made of all windows of one long text could ask for gigabytes.
    private const int MaximumMergeCount = 1 << 20;

    // Differs per process, so that no file can be made whose pieces collide on purpose. The resulting table does not depend on it.
    private static readonly ulong _base = unchecked((ulong)(uint)HashCode.Combine(1) * 0x9E3779B97F4A7C15) | 1;
    private static readonly ulong[] _powers = Powers();

    private readonly SentencePieceModel _model;
    private readonly SymbolTable _symbols;
    private readonly IReadOnlySet<int> _unreachable;
    private readonly Dictionary<ulong, int> _byHash = [];
    private readonly Dictionary<string, int> _collided = new(StringComparer.Ordinal);

    private MergeTableBuilder(SentencePieceModel model, SymbolTable symbols, IReadOnlySet<int> unreachable)
    {
        (_model, _symbols, _unreachable) = (model, symbols, unreachable);
        _byHash.EnsureCapacity(model.PieceCount);
    }

    public static MergeTable Build(SentencePieceModel model, SymbolTable symbols, IReadOnlySet<int> unreachable) =>
        new MergeTableBuilder(model, symbols, unreachable).Build();

    private MergeTable Build()
    {
        var longer = new List<int>();
        for (var id = 0; id < _model.PieceCount; id++)
        {
            var piece = _model.Piece(id);
            if (!SymbolTable.IsReachable(_model, _unreachable, id) || SymbolTable.IsOneScalar(piece)) continue;
            longer.Add(id);
            if (!_byHash.TryAdd(Hash(piece), id)) _collided.Add(piece, id);
        }

        var ranks = Ranks(longer);
        var table = new MergeTable(longer.Count * 2);
        Span<ulong> prefix = stackalloc ulong[SentencePieceModel.MaximumPieceLength + 1];
        foreach (var id in longer)
        {
            var piece = _model.Piece(id);
            for (var i = 0; i < piece.Length; i++) prefix[i + 1] = Extend(prefix[i], piece[i]);
            for (var cut = 1; cut < piece.Length; cut++)
            {
                if (char.IsLowSurrogate(piece[cut])) continue;
                var left = Find(piece.AsSpan(0, cut), prefix[cut]);
                if (left < 0) continue;
                var right = Find(piece.AsSpan(cut), prefix[piece.Length] - prefix[cut] * _powers[piece.Length - cut]);
                if (right < 0) continue;
                if (table.Count == MaximumMergeCount) throw SentencePieceModel.Invalid(_model.FileName, $"its pieces merge in more than {MaximumMergeCount} ways");
                table.Add(left, right, id, ranks[id]);
            }
        }
        return table;
    }

    /// <summary>The order of merges: by falling score. Equal scores share a rank, so that position decides between them.</summary>
    private int[] Ranks(List<int> ids)
    {
        var ranks = new int[_model.PieceCount];
        var order = ids.ToArray();
        var keys = Array.ConvertAll(order, id => -_model.Score(id));
        Array.Sort(keys, order);
        for (int i = 0, rank = 0; i < order.Length; i++)
        {
            if (i > 0 && keys[i] != keys[i - 1]) rank++;
            ranks[order[i]] = rank;
        }
        return ranks;
    }

    private int Find(ReadOnlySpan<char> text, ulong hash)
    {
        if (text.Length == 1 || (text.Length == 2 && char.IsHighSurrogate(text[0])))
        {
            Rune.DecodeFromUtf16(text, out var rune, out _);
            return _symbols.Find(rune.Value, out _);
        }
        if (!_byHash.TryGetValue(hash, out var id)) return -1;
        if (text.SequenceEqual(_model.Piece(id))) return id;
        return _collided.Count > 0 && _collided.TryGetValue(text.ToString(), out id) ? id : -1;
    }

    private static ulong Hash(string text)
    {
        ulong hash = 0;
        foreach (var c in text) hash = Extend(hash, c);
        return hash;
    }

    private static ulong Extend(ulong hash, char c) => unchecked(hash * _base + c + 1);

    private static ulong[] Powers()
    {
        var powers = new ulong[SentencePieceModel.MaximumPieceLength + 1];
        powers[0] = 1;
        for (var i = 1; i < powers.Length; i++) powers[i] = unchecked(powers[i - 1] * _base);
        return powers;
    }
}
