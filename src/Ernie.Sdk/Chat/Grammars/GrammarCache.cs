namespace Ernie.Sdk.Chat.Grammars;

/// <summary>The grammars last asked for, with the masks they have found. Safe for concurrent use.</summary>
/// <param name="tokenizer">Of the model.</param>
/// <param name="hasTags">Whether the model's answers stand in tags.</param>
/// <param name="maximumStates">Of all grammars kept. The last one is kept whatever it has.</param>
internal sealed class GrammarCache(ErnieTokenizer tokenizer, bool hasTags, int maximumStates = 2 * GrammarNetwork.MaximumStates)
{
    private const int Capacity = 16;

    private readonly Lazy<GrammarVocabulary> _vocabulary = new(() => Warm(tokenizer, hasTags));
    private readonly LinkedList<(string Key, Lazy<Grammar> Grammar)> _recent = new();
    private readonly object _gate = new();

    /// <exception cref="NotSupportedException">A schema is outside the subset, or no document satisfies it.</exception>
    public Grammar Get(OutputGrammar output, bool startsInReasoning)
    {
        var key = $"{startsInReasoning} {output.Key}";
        Lazy<Grammar> grammar;
        lock (_gate)
        {
            var node = _recent.First;
            while (node is not null && node.Value.Key != key) node = node.Next;
            grammar = node?.Value.Grammar ?? new Lazy<Grammar>(() =>
            {
                var compiled = output.Compile(_vocabulary.Value, hasTags, startsInReasoning);
                compiled.Rehearse();
                return compiled;
            });
            if (node is not null) _recent.Remove(node);
            _recent.AddFirst((key, grammar));
            Trim();
        }
        try
        {
            _ = grammar.Value;
        }
        catch
        {
            // Its schema may be long, and will be changed.
            lock (_gate) _recent.Remove((key, grammar));
            throw;
        }
        lock (_gate) Trim();
        return grammar.Value;
    }

    /// <summary>Leaves the last ones out that are too many or too large together.</summary>
    private void Trim()
    {
        while (_recent.Count > Capacity || (_recent.Count > 1 && _recent.Sum(static recent => recent.Grammar.IsValueCreated ? recent.Grammar.Value.StateCount : 0) > maximumStates)) _recent.RemoveLast();
    }

    /// <summary>
    /// A vocabulary that has seen a document: its tables are built and the code is compiled here, not in a step of the engine, which everybody's answers wait for.
    /// </summary>
    public static GrammarVocabulary Warm(ErnieTokenizer tokenizer, bool hasTags)
    {
        const string Document = """{"name": "A \"b\", 文字 é 🐼", "list": [1, -2.5e3, true, false, null, [], {"a": ["b", "c"]}], "other": {"x": "", "long": "words that follow one another"}}""";
        var vocabulary = new GrammarVocabulary(TokenTrie.Of(tokenizer));
        var any = new OutputGrammar(true, null, [], false).Compile(vocabulary, hasTags, startsInReasoning: false);
        var constraint = new GrammarConstraint(any, tokenizer.VocabularySize, []);
        foreach (var token in tokenizer.EncodeToIds(Document, allowSpecialTokens: false))
        {
            _ = constraint.Allowed(int.MaxValue);
            constraint.Advance(token);
        }
        return vocabulary;
    }
}
