using System.Text;
using System.Text.Json;
using Ernie.Sdk.Chat.Grammars;
using Ernie.Sdk.Engine;

namespace Ernie.Sdk.Tests.Chat.Grammars;

/// <summary>Compiles grammars and lets random logits write documents in them.</summary>
internal sealed class Grammars
{
    private static readonly System.Buffers.SearchValues<byte> s_structural = System.Buffers.SearchValues.Create("\"{}[],:<>\n"u8);
    private readonly Sampler _sampler;
    private readonly float[] _noise;
    private readonly int[] _structural;
    private readonly float[] _logits;

    public Grammars(ErnieTokenizer tokenizer, int vocabularySize)
    {
        (Tokenizer, VocabularySize) = (tokenizer, vocabularySize);
        Vocabulary = new GrammarVocabulary(TokenTrie.Of(tokenizer));
        Stop = tokenizer.EosTokenId!.Value;
        _sampler = new Sampler(vocabularySize, []);
        _logits = new float[vocabularySize];
        _noise = new float[2 * vocabularySize];
        var random = new Random(1);
        for (var i = 0; i < _noise.Length; i++) _noise[i] = random.NextSingle();
        _structural = [.. Enumerable.Range(0, vocabularySize).Where(id => Vocabulary.Trie.Bytes(id) is { } bytes && bytes.AsSpan().IndexOfAny(s_structural) >= 0), Stop];
    }

    public ErnieTokenizer Tokenizer { get; }
    public int VocabularySize { get; }
    public GrammarVocabulary Vocabulary { get; }
    public int Stop { get; }

    public Grammar Compile(string schema) => Compile(JsonDocument.Parse(schema).RootElement);

    public Grammar Compile(JsonElement? schema) => new OutputGrammar(true, schema, [], false).Compile(Vocabulary, hasTags: false, startsInReasoning: false);

    public GrammarConstraint Constrain(Grammar grammar) => new(grammar, VocabularySize, [Stop]);

    /// <summary>A document of noise in at most so many tokens; the stop token is not counted.</summary>
    public (string Text, int Tokens) Write(Grammar grammar, int budget, int seed)
    {
        var constraint = Constrain(grammar);
        var random = new Random(seed);
        // How fond of structure the noise is: none writes strings to the end, much nests.
        var fondness = random.NextSingle() * 0.9f;
        var ids = new List<int>();
        while (ids.Count < budget)
        {
            _noise.AsSpan(random.Next(VocabularySize), VocabularySize).CopyTo(_logits);
            foreach (var id in _structural) _logits[id] += fondness;
            var token = _sampler.Sample(_logits, SamplingSettings.Greedy, null, 0, constraint.Allowed(budget - ids.Count));
            constraint.Advance(token);
            if (token == Stop) break;
            ids.Add(token);
        }
        Assert.True(constraint.IsComplete, $"Incomplete after {ids.Count} of {budget} tokens: {Tokenizer.Decode(ids)}");
        return (Tokenizer.Decode(ids), ids.Count);
    }

    public static GrammarAutomaton Automaton(GrammarNetwork network, GrammarRule rule)
    {
        network.FindHeights();
        return new GrammarAutomaton(network, rule, ForbiddenBytes.None);
    }

    /// <summary>Whether a document is one of the grammar.</summary>
    public static bool Accepts(GrammarAutomaton automaton, string text)
    {
        var place = automaton.Start;
        foreach (var value in Encoding.UTF8.GetBytes(text)) place = automaton.Next(place, value);
        return automaton.IsComplete(place);
    }

    public static bool Accepts(string schema, string text)
    {
        var network = new GrammarNetwork();
        var json = new JsonRules(network, escapesTags: false);
        return Accepts(Automaton(network, JsonSchemaCompiler.Compile(JsonDocument.Parse(schema).RootElement, network, json)), text);
    }
}
