using System.Diagnostics;
using System.Text.Json;
using Ernie.Sdk.Chat.Grammars;

namespace Ernie.Sdk.Benchmarks;

/// <summary>What a grammar costs: compiling it, off the engine's thread, and the mask of each token, on it. The first line is the first grammar of the process.</summary>
internal static class GrammarBenchmark
{
    private const string Document = """{"name": "Ada Lovelace", "born": {"year": 1815, "place": "London, 伦敦"}, "tags": ["mathematics", "first programmer"], "score": -1.5e3, "alive": false}""";

    private static readonly (string Name, string Schema)[] s_schemas =
    [
        ("a schema", """
            {"type": "object", "properties": {"name": {"type": "string"}, "born": {"type": "object", "properties": {"year": {"type": "integer"}, "place": {"type": "string", "maxLength": 40}}, "required": ["year"]},
             "tags": {"type": "array", "items": {"type": "string"}}, "score": {"type": "number"}, "alive": {"type": "boolean"}}, "required": ["name", "born", "tags", "score", "alive"]}
            """),
        ("another", """
            {"type": "object", "properties": {"name": {"type": "string", "minLength": 2}, "born": {"type": "object", "properties": {"year": {"type": "integer", "minimum": 1}, "place": {"type": "string"}}, "required": ["place"]},
             "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z ]+$"}}, "score": {"type": "number"}, "alive": {"enum": [false]}}, "required": ["name", "born", "tags", "score", "alive"]}
            """),
        ("any JSON", "true"),
    ];

    /// <param name="folder">Of a tokenizer.</param>
    public static int Run(string folder)
    {
        var tokenizer = ErnieTokenizer.Load(folder);
        var (stop, vocabulary) = (tokenizer.EosTokenId!.Value, (GrammarVocabulary?)null);
        Console.WriteLine($"{"grammar",-10} {"document",-8} {"compile ms",10} {"mean µs",8} {"median µs",9} {"worst µs",9}   ({tokenizer.VocabularySize} tokens)");
        foreach (var (name, schema) in s_schemas)
        {
            var started = Stopwatch.GetTimestamp();
            vocabulary ??= new GrammarVocabulary(TokenTrie.Of(tokenizer));
            var grammar = new OutputGrammar(true, JsonDocument.Parse(schema).RootElement, [], false).Compile(vocabulary, hasTags: false, startsInReasoning: false);
            var compiled = Stopwatch.GetElapsedTime(started);
            var ids = tokenizer.EncodeToIds(Document);
            for (var round = 1; round <= 3; round++)
            {
                var times = new List<double>();
                var constraint = new GrammarConstraint(grammar, tokenizer.VocabularySize, [stop]);
                foreach (var id in ids)
                {
                    started = Stopwatch.GetTimestamp();
                    var allowed = constraint.Allowed(1000);
                    if ((allowed[id >> 6] >> id & 1) == 0) throw new InvalidOperationException($"{name} refuses '{tokenizer.Decode([id])}'.");
                    constraint.Advance(id);
                    if (round == 1 && Stopwatch.GetElapsedTime(started).TotalMicroseconds > 400) Console.WriteLine($"  {tokenizer.Decode([id])} {Stopwatch.GetElapsedTime(started).TotalMicroseconds:F0}");
                    times.Add(Stopwatch.GetElapsedTime(started).TotalMicroseconds);
                }
                times.Sort();
                Console.WriteLine($"{name,-10} {round,-8} {(round == 1 ? compiled.TotalMilliseconds.ToString("F1") : ""),10} {times.Average(),8:F1} {times[times.Count / 2],9:F1} {times[^1],9:F1}");
            }
        }
        return 0;
    }
}
