using System.Text;
using Ernie.Sdk.Chat.Parsing;
using Ernie.Sdk.Tokenization;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>
/// The bytes of every token that text is made of, as a trie whose nodes lie in preorder: the first child of a node follows it, its next sibling begins where it ends. Control tokens, and what
/// a checkpoint adds to its vocabulary, are not in it. Immutable.
/// </summary>
internal sealed class TokenTrie
{
    public const int Root = 0;

    private readonly List<byte> _labels = [0];
    private readonly List<ushort> _depths = [0];
    private readonly List<int> _ends = [0];
    private readonly List<int> _tokens = [-1];
    private readonly int[] _twins;
    private readonly byte[]?[] _bytes;

    /// <param name="tokens">Bytes by id; null where a token is none of text.</param>
    public TokenTrie(byte[]?[] tokens)
    {
        _bytes = tokens;
        _twins = new int[tokens.Length];
        Array.Fill(_twins, -1);
        Build([.. Enumerable.Range(0, tokens.Length).Where(id => tokens[id] is { Length: > 0 })]);
    }

    public int NodeCount => _labels.Count;

    /// <summary>Highest id plus one.</summary>
    public int TokenCount => _bytes.Length;

    public int MaximumDepth { get; private set; }

    public static TokenTrie Of(ErnieTokenizer tokenizer)
    {
        var tokens = new byte[]?[tokenizer.VocabularySize];
        for (var id = 0; id < tokens.Length; id++) tokens[id] = TextOf(tokenizer, id);
        return new TokenTrie(tokens);
    }

    /// <summary>The bytes of a token; null if it is none of text.</summary>
    public byte[]? Bytes(int token) => (uint)token < (uint)_bytes.Length ? _bytes[token] : null;

    public byte Label(int node) => _labels[node];
    public int Depth(int node) => _depths[node];
    /// <summary>First node after the subtree.</summary>
    public int End(int node) => _ends[node];
    public bool HasChildren(int node) => _ends[node] > node + 1;
    /// <summary>A token that ends at the node, or -1; <see cref="Twin"/> leads to others of the same bytes.</summary>
    public int Token(int node) => _tokens[node];
    public int Twin(int token) => _twins[token];

    private static byte[]? TextOf(ErnieTokenizer tokenizer, int id)
    {
        if (tokenizer.TryGetByte(id, out var value)) return [value];
        // Tags of reasoning and calls are text to the parser, whether or not they are tokens; others may end a turn or begin one, special or not.
        if (tokenizer.TryGetAdded(id, out var added)) return OutputParser.Tags.Contains(added.Content) ? Encoding.UTF8.GetBytes(added.Content) : null;
        if (!tokenizer.TryGetPiece(id, out var piece) || tokenizer.Model.Type(id) is PieceType.Control or PieceType.Unknown or PieceType.Byte) return null;
        return Encoding.UTF8.GetBytes(piece.Replace(WhitespaceNormalizer.SpaceMark, ' '));
    }

    private void Build(int[] ids)
    {
        Array.Sort(ids, (a, b) => _bytes[a].AsSpan().SequenceCompareTo(_bytes[b]) is not 0 and var order ? order : a.CompareTo(b));
        var path = new List<int> { Root };
        foreach (var id in ids)
        {
            var bytes = _bytes[id]!;
            var common = 0;
            while (common < bytes.Length && common + 1 < path.Count && _labels[path[common + 1]] == bytes[common]) common++;
            Close(path, common + 1);
            for (var i = common; i < bytes.Length; i++)
            {
                path.Add(_labels.Count);
                _labels.Add(bytes[i]);
                _depths.Add((ushort)(i + 1));
                _ends.Add(0);
                _tokens.Add(-1);
            }
            var node = path[^1];
            _twins[id] = _tokens[node];
            _tokens[node] = id;
            MaximumDepth = Math.Max(MaximumDepth, bytes.Length);
        }
        Close(path, 0);
    }

    private void Close(List<int> path, int count)
    {
        for (var i = count; i < path.Count; i++) _ends[path[i]] = _labels.Count;
        path.RemoveRange(count, path.Count - count);
    }
}
