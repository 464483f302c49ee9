using System.Collections.Concurrent;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>What grammars need to know of a tokenizer: the bytes of its tokens, and what those do in a string of any characters. Safe for concurrent use.</summary>
internal sealed class GrammarVocabulary(TokenTrie trie)
{
    private readonly ConcurrentDictionary<(bool EscapesTags, int State), TextTable> _plain = new();

    public TokenTrie Trie { get; } = trie;

    /// <summary>A vocabulary that lacks some tokens.</summary>
    public GrammarVocabulary Without(IReadOnlyCollection<int> tokens)
    {
        if (tokens.Count == 0) return this;
        var bytes = Enumerable.Range(0, Trie.TokenCount).Select(Trie.Bytes).ToArray();
        foreach (var id in tokens.Where(id => id < bytes.Length)) bytes[id] = null;
        return new GrammarVocabulary(new TokenTrie(bytes));
    }

    /// <summary>The table of a state of a plain string, whose states are the same in every grammar.</summary>
    public TextTable Plain(GrammarNetwork network, int state) =>
        _plain.GetOrAdd((network.States[state].Rule.EscapesTags, state - network.States[state].Rule.Start), _ => TextTable.Of(network, state, Trie, ForbiddenBytes.None, ForbiddenBytes.Start));
}
