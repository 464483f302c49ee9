using System.Text;
using Ernie.Sdk.Tokenization;

namespace Ernie.Sdk.Tests.Tokenization;

/// <summary>BPE as SentencePiece describes it, on strings, one scan over all pairs per merge. Shares no code with the encoder.</summary>
internal sealed class NaiveBpe(SentencePieceModel model)
{
    private sealed record Symbol(string Text, bool Frozen);

    private readonly Dictionary<string, int> _mergeable = Select(model, PieceType.Normal, PieceType.UserDefined, PieceType.Unused);
    private readonly List<string> _userDefined = [.. Select(model, PieceType.UserDefined).Keys];

    public List<int> Encode(string text)
    {
        var normalized = Normalize(text);
        var symbols = Split(normalized);
        var halves = new Dictionary<string, (string, string)>();

        // SentencePiece notes an unused piece's halves whenever it looks at a pair; the last look counts.
        for (var i = 0; i + 1 < symbols.Count; i++) Score(symbols, i, halves);
        while (true)
        {
            var best = -1;
            for (var i = 0; i + 1 < symbols.Count; i++)
            {
                if (Score(symbols, i, null) is { } score && (best < 0 || score > Score(symbols, best, null))) best = i;
            }
            if (best < 0) break;
            symbols[best] = new Symbol(symbols[best].Text + symbols[best + 1].Text, false);
            symbols.RemoveAt(best + 1);
            if (best > 0) Score(symbols, best - 1, halves);
            if (best + 1 < symbols.Count) Score(symbols, best, halves);
        }

        var ids = new List<int>();
        foreach (var symbol in symbols) Emit(symbol.Text, halves, ids);
        return ids;
    }

    private string Normalize(string text)
    {
        var whole = string.Concat(text.EnumerateRunes());
        if (model.RemoveExtraWhitespaces) whole = string.Join(' ', whole.Split(' ', StringSplitOptions.RemoveEmptyEntries));
        if (whole.Length == 0) return "";
        if (model.AddDummyPrefix) whole = " " + whole;
        whole = whole.Replace(' ', '\u2581');
        return model.RemoveExtraWhitespaces ? whole.TrimEnd('\u2581') : whole;
    }

    private List<Symbol> Split(string text)
    {
        var symbols = new List<Symbol>();
        for (var i = 0; i < text.Length;)
        {
            var match = _userDefined.Where(u => string.CompareOrdinal(text, i, u, 0, u.Length) == 0).MaxBy(u => u.Length);
            var length = match?.Length ?? Rune.GetRuneAt(text, i).Utf16SequenceLength;
            symbols.Add(new Symbol(text.Substring(i, length), match is not null));
            i += length;
        }
        return symbols;
    }

    private float? Score(List<Symbol> symbols, int left, Dictionary<string, (string, string)>? halves)
    {
        var (a, b) = (symbols[left], symbols[left + 1]);
        if (a.Frozen || b.Frozen || !_mergeable.TryGetValue(a.Text + b.Text, out var id)) return null;
        if (halves is not null && model.Type(id) == PieceType.Unused) halves[a.Text + b.Text] = (a.Text, b.Text);
        return model.Score(id);
    }

    private void Emit(string text, Dictionary<string, (string Left, string Right)> halves, List<int> ids)
    {
        if (!_mergeable.TryGetValue(text, out var id))
        {
            foreach (var b in Encoding.UTF8.GetBytes(text)) ids.Add(model.ByteId(b));
        }
        else if (model.Type(id) == PieceType.Unused && halves.TryGetValue(text, out var pair))
        {
            Emit(pair.Left, halves, ids);
            Emit(pair.Right, halves, ids);
        }
        else
        {
            ids.Add(id);
        }
    }

    private static Dictionary<string, int> Select(SentencePieceModel model, params PieceType[] types) =>
        Enumerable.Range(0, model.PieceCount).Where(id => types.Contains(model.Type(id))).ToDictionary(model.Piece, id => id);
}
