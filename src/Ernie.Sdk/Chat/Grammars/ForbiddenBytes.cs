namespace Ernie.Sdk.Chat.Grammars;

/// <summary>Looks for texts in bytes as they come (the automaton of Aho and Corasick). Immutable once made.</summary>
internal sealed class ForbiddenBytes
{
    public const int Start = 0;

    /// <summary>The state behind a text; there is none after it.</summary>
    public const int Found = -1;

    private readonly List<int[]> _next = [Empty()];
    private readonly List<bool> _ends = [false];

    public ForbiddenBytes(IEnumerable<byte[]> texts)
    {
        foreach (var text in texts) Add(text);
        Complete();
    }

    /// <summary>Finds nothing.</summary>
    public static ForbiddenBytes None { get; } = new([]);

    public bool IsEmpty => _next.Count == 1;

    /// <summary>The state after a byte, or <see cref="Found"/>.</summary>
    public int Next(int state, byte value) => _next[state][value];

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
        var order = new List<int> { 0 };
        for (var i = 0; i < order.Count; i++)
        {
            var state = order[i];
            _ends[state] |= _ends[fallback[state]];
            for (var value = 0; value < 256; value++)
            {
                var other = state == 0 ? 0 : _next[fallback[state]][value];
                if (_next[state][value] is >= 0 and var child)
                {
                    fallback[child] = other;
                    order.Add(child);
                }
                else
                {
                    _next[state][value] = other;
                }
            }
        }
        foreach (var next in _next)
        {
            for (var value = 0; value < 256; value++)
            {
                if (_ends[next[value]]) next[value] = Found;
            }
        }
    }
}
