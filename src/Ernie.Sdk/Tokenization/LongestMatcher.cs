namespace Ernie.Sdk.Tokenization;

/// <summary>Finds the longest of a set of strings at a position: a trie over UTF-16 units. Immutable after the last <see cref="Add"/>.</summary>
internal sealed class LongestMatcher
{
    private readonly Dictionary<long, int> _edges = [];
    private readonly List<int> _idOfNode = [-1];
    private readonly bool[] _starts = new bool[char.MaxValue + 1];

    public int Count { get; private set; }

    public void Add(string text, int id)
    {
        ArgumentException.ThrowIfNullOrEmpty(text);
        var node = 0;
        foreach (var c in text)
        {
            var edge = Edge(node, c);
            if (!_edges.TryGetValue(edge, out var next))
            {
                next = _idOfNode.Count;
                _idOfNode.Add(-1);
                _edges.Add(edge, next);
            }
            node = next;
        }
        _idOfNode[node] = id;
        _starts[text[0]] = true;
        Count++;
    }

    public bool CanStart(char c) => _starts[c];

    /// <summary>Length of the longest match that begins the text, or 0.</summary>
    public int Match(ReadOnlySpan<char> text, out int id)
    {
        id = -1;
        var length = 0;
        if (text.IsEmpty || !_starts[text[0]]) return 0;
        for (int i = 0, node = 0; i < text.Length && _edges.TryGetValue(Edge(node, text[i]), out node); i++)
        {
            if (_idOfNode[node] < 0) continue;
            id = _idOfNode[node];
            length = i + 1;
        }
        return length;
    }

    private static long Edge(int node, char c) => ((long)node << 16) | c;
}
