using Ernie.Sdk.Engine;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>
/// Keeps texts out of an answer, however they are cut into tokens, and tokens. The texts' bytes are an automaton (Aho and Corasick's); what each of its states forbids is found once, by a walk through the
/// vocabulary.
/// </summary>
internal sealed class ForbiddenText : TokenConstraint
{
    private readonly TokenTrie _trie;
    private readonly ulong[] _never;
    private readonly List<int[]> _next = [Empty()];
    private readonly List<bool> _ends = [false];
    private readonly Dictionary<int, ulong[]> _masks = [];
    private int _state;

    public ForbiddenText(IEnumerable<byte[]> texts, IEnumerable<int> tokens, TokenTrie trie, int vocabularySize)
    {
        _trie = trie;
        _never = new ulong[(vocabularySize + 63) / 64];
        foreach (var id in tokens) _never[id >> 6] |= 1UL << id;
        foreach (var text in texts) Add(text);
        Complete();
    }

    public override int TokensToEnd => 0;

    public override ReadOnlySpan<ulong> Allowed(int remaining)
    {
        if (!_masks.TryGetValue(_state, out var mask)) _masks[_state] = mask = MaskOf(_state);
        return mask;
    }

    public override void Advance(int token)
    {
        // Tokens that are no text stand between pieces of it unseen.
        foreach (var value in _trie.Bytes(token) ?? []) _state = _next[_state][value];
    }

    private static int[] Empty()
    {
        var next = new int[256];
        Array.Fill(next, -1);
        return next;
    }

    private void Add(byte[] text)
    {
        var state = 0;
        foreach (var value in text)
        {
            if (_next[state][value] < 0)
            {
                _next[state][value] = _next.Count;
                _next.Add(Empty());
                _ends.Add(false);
            }
            state = _next[state][value];
        }
        _ends[state] = true;
    }

    /// <summary>Where no text goes on, the longest end of what has come that begins one does.</summary>
    private void Complete()
    {
        var fallback = new int[_next.Count];
        var open = new Queue<int>();
        open.Enqueue(0);
        while (open.TryDequeue(out var state))
        {
            _ends[state] |= _ends[fallback[state]];
            for (var value = 0; value < 256; value++)
            {
                var other = state == 0 ? 0 : _next[fallback[state]][value];
                if (_next[state][value] is >= 0 and var child)
                {
                    fallback[child] = other;
                    open.Enqueue(child);
                }
                else
                {
                    _next[state][value] = other;
                }
            }
        }
    }

    private ulong[] MaskOf(int start)
    {
        var mask = new ulong[_never.Length];
        Array.Fill(mask, ulong.MaxValue);
        var path = new int[_trie.MaximumDepth + 1];
        path[0] = start;
        for (var node = 1; node < _trie.NodeCount; node++)
        {
            var depth = _trie.Depth(node);
            // A state of -1 has a text behind it.
            path[depth] = path[depth - 1] < 0 || _ends[_next[path[depth - 1]][_trie.Label(node)]] ? -1 : _next[path[depth - 1]][_trie.Label(node)];
            if (path[depth] >= 0) continue;
            for (var token = _trie.Token(node); token >= 0; token = _trie.Twin(token)) mask[token >> 6] &= ~(1UL << token);
        }
        for (var i = 0; i < mask.Length; i++) mask[i] &= ~_never[i];
        return mask;
    }
}
