namespace Ernie.Sdk.Chat.Grammars;

/// <summary>The grammars last asked for, with the masks they have found. Safe for concurrent use.</summary>
internal sealed class GrammarCache(ErnieTokenizer tokenizer)
{
    private const int Capacity = 16;

    private readonly Lazy<GrammarVocabulary> _vocabulary = new(() => new GrammarVocabulary(TokenTrie.Of(tokenizer)));
    private readonly LinkedList<(string Key, Lazy<Grammar> Grammar)> _recent = new();
    private readonly object _gate = new();

    public TokenTrie Trie => _vocabulary.Value.Trie;

    /// <exception cref="NotSupportedException">A schema is outside the subset, or no document satisfies it.</exception>
    public Grammar Get(OutputGrammar output, bool hasTags, bool startsInReasoning)
    {
        var key = $"{hasTags} {startsInReasoning} {output.Key}";
        Lazy<Grammar> grammar;
        lock (_gate)
        {
            var node = _recent.First;
            while (node is not null && node.Value.Key != key) node = node.Next;
            grammar = node?.Value.Grammar ?? new Lazy<Grammar>(() => output.Compile(_vocabulary.Value, hasTags, startsInReasoning));
            if (node is not null) _recent.Remove(node);
            _recent.AddFirst((key, grammar));
            if (_recent.Count > Capacity) _recent.RemoveLast();
        }
        return grammar.Value;
    }
}
