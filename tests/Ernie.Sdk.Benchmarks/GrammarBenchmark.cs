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
        ("thinking", """{"type": "object", "additionalProperties": true}"""),
    ];

    /// <param name="folder">Of a tokenizer.</param>
    public static int Run(string folder)
    {
        var tokenizer = ErnieTokenizer.Load(folder);
        var stop = tokenizer.EosTokenId!.Value;
        // As a chat client has them.
        var plain = new GrammarCache(tokenizer, hasTags: false);
        var thinking = new GrammarCache(tokenizer, hasTags: true);
        Console.WriteLine($"{"grammar",-10} {"document",-8} {"compile ms",10} {"mean µs",8} {"median µs",9} {"worst µs",9}   ({tokenizer.VocabularySize} tokens)");
        foreach (var (name, schema) in s_schemas)
        {
            var isThinking = name == "thinking";
            var started = Stopwatch.GetTimestamp();
            var grammar = (isThinking ? thinking : plain).Get(new OutputGrammar(true, JsonDocument.Parse(schema).RootElement, [], false), isThinking);
            var compiled = Stopwatch.GetElapsedTime(started);
            var ids = tokenizer.EncodeToIds(isThinking ? $"I write {{JSON}} < so.\n</think>\n<response>\n{Document}\n</response>" : Document);
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
                    times.Add(Stopwatch.GetElapsedTime(started).TotalMicroseconds);
                }
                times.Sort();
                Console.WriteLine($"{name,-10} {round,-8} {(round == 1 ? compiled.TotalMilliseconds.ToString("F1") : ""),10} {times.Average(),8:F1} {times[times.Count / 2],9:F1} {times[^1],9:F1}");
            }
        }
        return 0;
    }
}
