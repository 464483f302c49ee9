using System.Diagnostics;
using System.Text;
using System.Text.Json;
using Ernie.Sdk.Chat.Grammars;
using Ernie.Sdk.Chat.Parsing;
using Ernie.Sdk.Tests.Tokenization;
using Json.Schema;

namespace Ernie.Sdk.Tests.Chat.Grammars;

public sealed class GrammarTests(ITestOutputHelper output)
{
    private static readonly Lazy<Grammars> s_tiny = new(static () => new Grammars(Tokenizers.Tiny, 2048));
    // As many with the released vocabulary take minutes where nothing is optimised; ERNIE_GRAMMAR_SCHEMAS asks for them.
    private static readonly int s_releasedSchemas = int.TryParse(Environment.GetEnvironmentVariable("ERNIE_GRAMMAR_SCHEMAS"), out var schemas) ? schemas : 60;
    private static readonly EvaluationOptions s_evaluation = new() { OutputFormat = OutputFormat.Flag };

    [Fact]
    public void RandomDocuments_OfTheShippedVocabulary_AreValid() => AssertDocumentsAreValid(s_tiny.Value, 1000);

    [Fact]
    public void RandomDocuments_OfTheReleasedVocabulary_AreValid() => AssertDocumentsAreValid(new Grammars(Tokenizers.Real, 103_424), s_releasedSchemas);

    [Fact]
    public void FewestTokens_AreThoseOfASearchOverAllDocuments()
    {
        var searched = 0;
        for (var seed = 0; seed < 400; seed++)
        {
            var random = new Random(seed);
            var schema = s_small[random.Next(s_small.Length)];
            var trie = new TokenTrie(RandomTokens(random));
            var grammar = new OutputGrammar(true, JsonDocument.Parse(schema).RootElement, [], false).Compile(new GrammarVocabulary(trie), hasTags: false, startsInReasoning: false);
            var found = Search(grammar, trie, 200_000);
            if (found is null) continue;
            searched++;
            Assert.Equal((schema, found), (schema, grammar.MinimumTokens));
        }
        Assert.True(searched > 300, $"{searched} searches ended.");
    }

    [Fact]
    public void FewestTokens_WithForbiddenTexts_AreThoseOfASearchOverAllDocumentsWithoutThem()
    {
        string[] words = ["ab", "\"a\"", "}", "12", "b\"", "null", "[[", "a", "\":", "1"];
        var (searched, refused) = (0, 0);
        for (var seed = 0; seed < 400; seed++)
        {
            var random = new Random(seed);
            var schema = JsonDocument.Parse(s_small[random.Next(s_small.Length)]).RootElement;
            var vocabulary = new GrammarVocabulary(new TokenTrie(RandomTokens(random)));
            var forbidden = new ForbiddenWords([.. Enumerable.Range(0, random.Next(1, 4)).Select(_ => words[random.Next(words.Length)])], [random.Next(vocabulary.Trie.TokenCount)]);
            var output = new OutputGrammar(true, schema, [], false);
            var found = Search(output.Compile(vocabulary, hasTags: false, startsInReasoning: false), vocabulary.Without(forbidden.Tokens).Trie, 50_000, forbidden.ToBytes());
            if (found is null) continue;
            searched++;
            if (found < CompletionCosts.Impossible)
            {
                Assert.Equal((seed, found), (seed, (output with { Forbidden = forbidden }).Compile(vocabulary, hasTags: false, startsInReasoning: false).MinimumTokens));
                continue;
            }
            refused++;
            var e = Assert.Throws<ArgumentException>(() => (output with { Forbidden = forbidden }).Compile(vocabulary, hasTags: false, startsInReasoning: false));
            Assert.Contains("bad_words", e.Message, StringComparison.Ordinal);
        }
        Assert.True(searched > 200 && refused is > 20 and < 200, $"{searched} searches ended, {refused} found nothing.");
    }

    [Fact]
    public void FewestTokens_KeepToTheDepthThatIsLeft()
    {
        // Two tokens are all of a document that is too deep; a flat one takes a token for each character.
        var deep = $$"""{"anyOf": [{"$ref": "#/$defs/a0"}, {"const": "twelve chars"}], "$defs": { {{Chain(70, "1")}} } }""";
        var trie = new TokenTrie([.. "[]{}\":, 1twelvchars".Distinct().Select(static c => new[] { (byte)c }), Encoding.UTF8.GetBytes(new string('[', 70)), Encoding.UTF8.GetBytes('1' + new string(']', 70)), "[[["u8.ToArray(), "1]]]"u8.ToArray()]);
        var grammar = Compile(deep);
        Assert.Equal(14, grammar.MinimumTokens);
        Assert.Equal(14, Search(grammar, trie, 10_000));

        // Deep enough in lists of themselves, the short way is closed: in what remains of the depth, and for constants too.
        foreach (var shortest in new[] { $$"""{"$ref": "#/$defs/a0"}""", """{"const": [[[1]]]}""" })
        {
            grammar = Compile($$"""{"type": "array", "minItems": 1, "maxItems": 1, "items": {"anyOf": [{"$ref": "#"}, {{shortest}}, {"const": "chars"}]}, "$defs": { {{Chain(3, "1")}} } }""");
            var place = grammar.Start;
            for (var depth = 1; depth < GrammarAutomaton.MaximumNesting; depth++)
            {
                place = grammar.Next(place, 0);
                Assert.Equal((depth, Search(grammar, trie, 50_000, place: place)), (depth, grammar.TokensToEnd(place)));
            }
        }

        foreach (var startsInReasoning in new[] { false, true })
        {
            var e = Assert.Throws<NotSupportedException>(() => Compile($$"""{"$ref": "#/$defs/a0", "$defs": { {{Chain(65, "1")}} } }""", startsInReasoning));
            Assert.Contains("at most 64 objects and arrays", e.Message, StringComparison.Ordinal);
        }

        Grammar Compile(string schema, bool startsInReasoning = false) => new OutputGrammar(true, JsonDocument.Parse(schema).RootElement, [], false).Compile(new GrammarVocabulary(trie), hasTags: startsInReasoning, startsInReasoning);

        static string Chain(int depth, string innermost) =>
            string.Join(", ", Enumerable.Range(0, depth).Select(i => $$"""  "a{{i}}": {"type": "array", "minItems": 1, "maxItems": 1, "items": {"$ref": "#/$defs/a{{i + 1}}"} } """).Append($$"""  "a{{depth}}": {"const": {{innermost}} } """));
    }

    [Fact]
    public void FreeText_IsReadAsTheParserReadsIt()
    {
        string[] pieces = ["<", "<think>", "</think>", "<response>", "</response>", "<tool_call>", "</tool_call>", "\n", "<tool", "_call>", "</", "text", " ", "é", "<<", "<response", ">", "{\"name\": \"f\", \"arguments\": {}}"];
        var grammars = s_tiny.Value;
        var arguments = JsonElement.Parse("true");
        var (open, called) = (0, 0);
        foreach (var startsInReasoning in new[] { false, true })
        {
            var grammar = new OutputGrammar(false, null, [("f", arguments)], AllowsSeveralCalls: true) { IsText = true }.Compile(grammars.Vocabulary, hasTags: true, startsInReasoning);
            for (var seed = 0; seed < 3000; seed++)
            {
                var random = new Random(seed);
                var text = string.Concat(Enumerable.Range(0, random.Next(1, 9)).Select(_ => pieces[random.Next(pieces.Length)]));
                if (random.Next(2) == 0) text += "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
                var parser = new OutputParser(startsInReasoning);
                OutputPart[] parts = [.. parser.Append(text)];
                parts = [.. parts, .. parser.Finish()];
                var place = grammar.Next(grammar.Start, Encoding.UTF8.GetBytes(text));
                // A call that the grammar does not write cannot be read either, or is written in another way than the model was taught.
                if (place == GrammarAutomaton.Dead) Assert.True(Array.Exists(parts, static p => p is BrokenCallPart or CallPart), text);
                else Assert.Equal((text, Array.TrueForAll(parts, static p => p is not BrokenCallPart)), (text, grammar.IsComplete(place)));
                if (place == GrammarAutomaton.Dead) continue;
                open++;
                if (Array.Exists(parts, static p => p is CallPart)) called++;
            }
        }
        Assert.True(open > 2000 && called > 500, $"{open} texts, {called} of them with calls.");
    }

    [Fact]
    public void WithTheFewestTokensLeft_OnlyShortestWaysRemain()
    {
        var grammars = s_tiny.Value;
        for (var seed = 0; seed < 40; seed++)
        {
            var grammar = grammars.Compile(new RandomSchema(new Random(seed)).Next());
            var mask = new ulong[(grammars.VocabularySize + 63) / 64];
            var random = new Random(seed);
            for (var place = grammar.Start; grammar.TokensToEnd(place) is > 0 and var left;)
            {
                foreach (var spare in new[] { 0, 1, 3 })
                {
                    grammar.Allow(place, left + spare, mask);
                    for (var id = 0; id < grammars.VocabularySize; id++)
                    {
                        var next = grammar.Next(place, id);
                        var isPossible = next != GrammarAutomaton.Dead && grammar.TokensToEnd(next) < left + spare;
                        Assert.Equal(isPossible, (mask[id >> 6] >> id & 1) != 0);
                    }
                }
                grammar.Allow(place, left, mask);
                int[] ids = [.. Enumerable.Range(0, grammars.VocabularySize).Where(id => (mask[id >> 6] >> id & 1) != 0)];
                place = grammar.Next(place, ids[random.Next(ids.Length)]);
                Assert.Equal(left - 1, grammar.TokensToEnd(place));
            }
        }
    }

    [Fact]
    public void ControlTokens_NeverCome_TheStopTokenAtTheEndOnly()
    {
        var grammars = s_tiny.Value;
        var constraint = grammars.Constrain(grammars.Compile("""{"const": [1]}"""));
        var allowed = constraint.Allowed(100).ToArray();
        Assert.All(Enumerable.Range(0, grammars.VocabularySize).Where(grammars.Tokenizer.IsSpecial), id => Assert.False(IsSet(allowed, id)));
        foreach (var id in grammars.Tokenizer.EncodeToIds("[1]"))
        {
            Assert.False(IsSet(constraint.Allowed(100), grammars.Stop));
            constraint.Advance(id);
        }
        Assert.True(constraint.IsComplete);
        var last = constraint.Allowed(100).ToArray();
        Assert.Equal([grammars.Stop], Enumerable.Range(0, grammars.VocabularySize).Where(id => IsSet(last, id)));
    }

    [Fact]
    public void Documents_AreNoDeeperThanReadersRead()
    {
        var grammars = s_tiny.Value;
        foreach (var schema in new[] { "true", """{"type": "object", "properties": {"next": {"$ref": "#"}, "x": {"type": "array", "items": {"$ref": "#/properties/x"}}}, "required": ["x"]}""" })
        {
            var grammar = grammars.Compile(schema);
            for (var seed = 0; seed < 20; seed++)
            {
                // More brackets than anything else.
                var constraint = grammars.Constrain(grammar);
                var (ids, random) = (new List<int>(), new Random(seed));
                while (ids.Count < 400)
                {
                    var allowed = constraint.Allowed(400 - ids.Count).ToArray();
                    int[] all = [.. Enumerable.Range(0, grammars.VocabularySize).Where(id => IsSet(allowed, id))];
                    int[] opening = [.. all.Where(id => grammars.Vocabulary.Trie.Bytes(id) is { } bytes && (bytes.Contains((byte)'[') || bytes.Contains((byte)'{') || bytes.Contains((byte)'n')))];
                    var chosen = opening.Length > 0 && random.Next(8) > 0 ? opening : all;
                    var token = chosen[random.Next(chosen.Length)];
                    constraint.Advance(token);
                    if (token == grammars.Stop) break;
                    ids.Add(token);
                }
                using var document = JsonDocument.Parse(grammars.Tokenizer.Decode(ids));
            }
        }
    }

    [Fact]
    public void MasksOfTheReleasedVocabulary_AreCheap()
    {
        var grammars = new Grammars(Tokenizers.Real, 103_424);
        var text = """{"name": "Ada Lovelace", "born": {"year": 1815, "place": "London, 伦敦"}, "tags": ["mathematics", "first programmer"], "score": -1.5e3, "alive": false}""";
        var schema = """
            {"type": "object", "properties": {"name": {"type": "string"}, "born": {"type": "object", "properties": {"year": {"type": "integer"}, "place": {"type": "string", "maxLength": 40}}, "required": ["year"]},
             "tags": {"type": "array", "items": {"type": "string"}}, "score": {"type": "number"}, "alive": {"type": "boolean"}}, "required": ["name", "born", "tags", "score", "alive"]}
            """;
        foreach (var (name, source) in new[] { ("any JSON", "true"), ("a schema", schema) })
        {
            var started = Stopwatch.GetTimestamp();
            var grammar = grammars.Compile(source);
            var compiled = Stopwatch.GetElapsedTime(started);
            var ids = grammars.Tokenizer.EncodeToIds(text);
            for (var round = 0; round < 3; round++)
            {
                var constraint = grammars.Constrain(grammar);
                started = Stopwatch.GetTimestamp();
                var worst = TimeSpan.Zero;
                foreach (var id in ids)
                {
                    var one = Stopwatch.GetTimestamp();
                    Assert.True(IsSet(constraint.Allowed(1000), id), grammars.Tokenizer.Decode([id]));
                    constraint.Advance(id);
                    if (Stopwatch.GetElapsedTime(one) is var time && time > worst) worst = time;
                }
                var each = Stopwatch.GetElapsedTime(started) / ids.Count;
                Assert.True(constraint.IsComplete);
                output.WriteLine($"{name}, round {round}: compiled in {compiled.TotalMilliseconds:F1} ms; {each.TotalMicroseconds:F1} µs a token, at most {worst.TotalMicroseconds:F1} µs, {ids.Count} tokens, fewest {grammar.MinimumTokens}");
            }
        }
    }

    private static readonly string[] s_small =
    [
        "true", """{"type": "object", "properties": {"a": {"type": "string", "minLength": 3}, "b": {"type": "boolean"}}, "required": ["a", "b"]}""",
        """{"type": "array", "minItems": 3, "items": {"enum": ["ab", "abc", 12]}}""", """{"type": "array", "minItems": 2, "items": {"$ref": "#"}, "maxItems": 2}""".Replace("\"$ref\": \"#\"", "\"anyOf\": [{\"type\": \"null\"}, {\"$ref\": \"#\"}]", StringComparison.Ordinal),
        """{"type": "string", "pattern": "^(ab|ba){2,3}c?$"}""", """{"type": "string", "minLength": 7, "maxLength": 8}""", """{"type": "object", "required": ["a"], "properties": {"b": true}, "additionalProperties": {"type": "integer", "minimum": 10}}""",
        """{"const": {"ab": ["a", "b"], "c": null}}""", """{"type": "number", "minimum": 12.5, "maximum": 13}""",
    ];

    /// <summary>Every byte of JSON, and pieces of a document.</summary>
    private static byte[]?[] RandomTokens(Random random)
    {
        const string Source = """{"ab": ["a", "b"], "c":null,"a":"abc","b":true,[[null,null],[12,12,"ab","abc"]]}"abba""abab"13,12.5}""";
        var tokens = new HashSet<string>(Source.Distinct().Select(static c => c.ToString())) { "0", "e", "l", "s", "f" };
        for (var i = 0; i < 25; i++)
        {
            var start = random.Next(Source.Length - 6);
            tokens.Add(Source.Substring(start, random.Next(2, 6)));
        }
        return [.. tokens.Select(static t => Encoding.UTF8.GetBytes(t))];
    }

    /// <summary>Fewest tokens by trying all, level by level; null where there are too many places.</summary>
    private static int? Search(Grammar grammar, TokenTrie trie, int most, ForbiddenBytes? forbidden = null, int? place = null)
    {
        var level = new List<(int Place, int Text)> { (place ?? grammar.Start, ForbiddenBytes.Start) };
        var seen = level.ToHashSet();
        for (var tokens = 0; level.Count > 0; tokens++)
        {
            if (level.Exists(at => grammar.IsComplete(at.Place))) return tokens;
            var next = new List<(int, int)>();
            foreach (var (from, text) in level)
            {
                for (var token = 0; token < trie.TokenCount; token++)
                {
                    if (trie.Bytes(token) is not { } bytes) continue;
                    var after = text;
                    foreach (var value in bytes) after = after == ForbiddenBytes.Found ? after : (forbidden ?? ForbiddenBytes.None).Next(after, value);
                    if (after != ForbiddenBytes.Found && grammar.Next(from, token) is not GrammarAutomaton.Dead and var end && seen.Add((end, after))) next.Add((end, after));
                }
                if (seen.Count > most) return null;
            }
            level = next;
        }
        return CompletionCosts.Impossible;
    }

    private void AssertDocumentsAreValid(Grammars grammars, int count)
    {
        var (documents, tokens, refused) = (0, 0L, 0);
        var started = Stopwatch.GetTimestamp();
        for (var seed = 0; documents < 3 * count; seed++)
        {
            var schema = new RandomSchema(new Random(seed)).Next();
            Grammar grammar;
            try
            {
                grammar = grammars.Compile(schema);
            }
            catch (NotSupportedException e) when (e.Message.Contains("no document satisfies it", StringComparison.Ordinal))
            {
                refused++;
                continue;
            }
            var judge = JsonSchema.FromText(schema.GetRawText());
            foreach (var spare in new[] { 0, 16, 256 })
            {
                var (text, written) = grammars.Write(grammar, grammar.MinimumTokens + spare, seed);
                if (spare == 0) Assert.Equal(grammar.MinimumTokens, written);
                using var document = JsonDocument.Parse(text);
                Assert.True(judge.Evaluate(document.RootElement, s_evaluation).IsValid, $"seed {seed}, spare {spare}:\n{schema}\n{text}");
                documents++;
                tokens += written;
            }
        }
        output.WriteLine($"{documents} documents of {tokens} tokens, {refused} schemas without any, {Stopwatch.GetElapsedTime(started).TotalSeconds:F1} s");
        Assert.True(refused < count / 10, $"{refused} schemas had no document.");
    }

    private static bool IsSet(ReadOnlySpan<ulong> mask, int id) => (mask[id >> 6] >> id & 1) != 0;
}
