using Ernie.Sdk.Engine;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>Keeps texts out of an answer, however they are cut into tokens, and tokens. What each state of the search forbids is found once, by a walk through the vocabulary.</summary>
internal sealed class ForbiddenText : TokenConstraint
{
    private readonly TokenTrie _trie;
    private readonly ForbiddenBytes _bytes;
    private readonly ulong[] _never;
    private readonly Dictionary<int, ulong[]> _masks = [];
    private int _state;

    public ForbiddenText(ForbiddenWords words, TokenTrie trie, int vocabularySize)
    {
        (_trie, _bytes) = (trie, words.ToBytes());
        _never = new ulong[(vocabularySize + 63) / 64];
        foreach (var id in words.Tokens) _never[id >> 6] |= 1UL << id;
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
        foreach (var value in _trie.Bytes(token) ?? []) _state = _bytes.Next(_state, value);
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
            path[depth] = path[depth - 1] == ForbiddenBytes.Found ? ForbiddenBytes.Found : _bytes.Next(path[depth - 1], _trie.Label(node));
            if (path[depth] != ForbiddenBytes.Found) continue;
            for (var token = _trie.Token(node); token >= 0; token = _trie.Twin(token)) mask[token >> 6] &= ~(1UL << token);
        }
        for (var i = 0; i < mask.Length; i++) mask[i] &= ~_never[i];
        return mask;
    }
}
