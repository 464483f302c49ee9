using System.Text;

namespace Ernie.Sdk.Tokenization;

/// <summary>
/// The start symbols of BPE: one per Unicode scalar. A scalar that occurs in longer pieces but has no piece itself gets a virtual id from
/// <see cref="SentencePieceModel.PieceCount"/> up, so that merges can name it; any other scalar without a piece is the complement of its value.
/// </summary>
internal sealed class SymbolTable
{
    private const byte JoinsFlag = 1;
    private const byte KnownFlag = 2;

    private readonly byte[] _flags = new byte[char.MaxValue + 1];
    private readonly int[] _symbols = new int[char.MaxValue + 1];
    private readonly Dictionary<int, (int Symbol, byte Flags)> _astral = [];
    private readonly List<int> _virtualScalars = [];
    private readonly int _pieceCount;

    public SymbolTable(SentencePieceModel model, IReadOnlySet<int> unreachable)
    {
        _pieceCount = model.PieceCount;
        for (var id = 0; id < model.PieceCount; id++)
        {
            if (!IsReachable(model, unreachable, id)) continue;
            var piece = model.Piece(id);
            if (IsOneScalar(piece)) Set(Rune.GetRuneAt(piece, 0).Value, id, KnownFlag);
        }
        for (var id = 0; id < model.PieceCount; id++)
        {
            var piece = model.Piece(id);
            if (!IsReachable(model, unreachable, id) || IsOneScalar(piece)) continue;
            foreach (var rune in piece.EnumerateRunes())
            {
                if (Find(rune.Value, out var joins) is var symbol && joins) continue;
                if (symbol < 0)
                {
                    symbol = _pieceCount + _virtualScalars.Count;
                    _virtualScalars.Add(rune.Value);
                }
                Set(rune.Value, symbol, KnownFlag | JoinsFlag);
            }
        }
    }

    /// <summary>Pieces that text can become: never control, unknown or byte pieces, and no user-defined ones, which are cut out of the text before.</summary>
    public static bool IsReachable(SentencePieceModel model, IReadOnlySet<int> unreachable, int id) =>
        model.Type(id) is PieceType.Normal or PieceType.Unused && !unreachable.Contains(id);

    public static bool IsOneScalar(string text) => text.Length == 1 || (text.Length == 2 && char.IsHighSurrogate(text[0]));

    /// <summary>The scalar's symbol, and whether it occurs in a longer piece; one that does not is a boundary that no merge crosses.</summary>
    public int Find(int scalar, out bool joins)
    {
        if (scalar <= char.MaxValue)
        {
            joins = (_flags[scalar] & JoinsFlag) != 0;
            return (_flags[scalar] & KnownFlag) != 0 ? _symbols[scalar] : ~scalar;
        }
        if (_astral.TryGetValue(scalar, out var found))
        {
            joins = (found.Flags & JoinsFlag) != 0;
            return found.Symbol;
        }
        joins = false;
        return ~scalar;
    }

    /// <summary>The scalar of a symbol that is no piece.</summary>
    public bool IsPieceless(int symbol, out int scalar)
    {
        scalar = symbol < 0 ? ~symbol : symbol >= _pieceCount ? _virtualScalars[symbol - _pieceCount] : 0;
        return symbol < 0 || symbol >= _pieceCount;
    }

    private void Set(int scalar, int symbol, byte flags)
    {
        if (scalar > char.MaxValue)
        {
            _astral[scalar] = (symbol, flags);
            return;
        }
        _symbols[scalar] = symbol;
        _flags[scalar] = flags;
    }
}
