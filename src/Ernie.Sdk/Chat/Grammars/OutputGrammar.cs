using System.Text;
using System.Text.Json;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>What an answer must be: a JSON document, calls of tools, or either; or any text with calls that keep to their schemas.</summary>
/// <param name="IsJson">Whether the answer's text is a document.</param>
/// <param name="Schema">Of the document; null for any object.</param>
/// <param name="Calls">Tools that may be called, by name, with the schema of their arguments; one that describes no object leaves them open, as the model writes them.</param>
/// <param name="AllowsSeveralCalls">Whether a call may follow another.</param>
internal sealed record OutputGrammar(bool IsJson, JsonElement? Schema, IReadOnlyList<(string Name, JsonElement Arguments)> Calls, bool AllowsSeveralCalls)
{
    // Each of their bytes is another state of everything that is found out about a grammar.
    private const int MaximumForbiddenBytes = 1000;

    private const string ReasoningEnd = "</think>";
    private const int MaximumNewlines = 3;

    /// <summary>Whether text comes before and between the calls as the model likes; it may end anywhere. Only models that write tags can.</summary>
    public bool IsText { get; init; }

    /// <summary>What the answer must not have; null for nothing.</summary>
    public ForbiddenWords? Forbidden { get; init; }

    /// <summary>Equal for equal grammars.</summary>
    public string Key => string.Join('\0', [IsJson ? "json" : "", IsText ? "text" : "", Forbidden?.Key ?? "", Schema?.GetRawText() ?? "", AllowsSeveralCalls ? "several" : "", .. Calls.Select(static call => $"{call.Name}\0{call.Arguments.GetRawText()}")]);

    /// <summary>Whether a grammar can leave out so much.</summary>
    public static bool CanForbid(ForbiddenWords? words) => words is null || words.Texts.Sum(Encoding.UTF8.GetByteCount) <= MaximumForbiddenBytes;

    /// <param name="vocabulary">Tokens.</param>
    /// <param name="hasTags">Whether answers and calls stand in tags, as <see cref="Parsing.OutputParser"/> reads them.</param>
    /// <param name="startsInReasoning">Whether reasoning comes first. Before a document or a required call it is closed in time; where text is free it may take all tokens.</param>
    /// <exception cref="NotSupportedException">A schema is outside the subset, or no document satisfies it.</exception>
    /// <exception cref="ArgumentException">Each document has something that is forbidden.</exception>
    public Grammar Compile(GrammarVocabulary vocabulary, bool hasTags, bool startsInReasoning)
    {
        if (!CanForbid(Forbidden)) throw new NotSupportedException($"Additional property 'bad_words': beside a schema or tools that the answer must keep to, its texts may have {MaximumForbiddenBytes} bytes together.");
        var forbidden = Forbidden?.ToBytes() ?? ForbiddenBytes.None;
        var network = new GrammarNetwork();
        // In a document, a text that looks like a tag would end it.
        var json = new JsonRules(network, escapesTags: hasTags);
        var rule = network.NewRule();
        var end = network.NewState(rule, isExit: true);
        var answer = rule.Start;
        GrammarRule? reasoning = null;
        var arguments = new List<(string Tool, GrammarRule Rule)>();
        if (startsInReasoning && !IsText)
        {
            reasoning = Reasoning(network);
            answer = network.NewState(rule);
            network.Call(rule.Start, reasoning, answer);
        }
        if (IsText)
        {
            AddText(network, json, rule, arguments, startsInReasoning ? FreeText.Part.Reasoning : FreeText.Part.Begin);
        }
        else if (hasTags)
        {
            var begin = network.NewState(rule);
            network.Call(answer, Newlines(network), begin);
            answer = begin;
        }
        if (IsJson)
        {
            var document = Schema is { } schema ? JsonSchemaCompiler.Compile(schema, network, json) : json.Object;
            network.Call(answer, document, end);
            if (hasTags) Enclose(network, answer, "<response>\n", document, "\n</response>", end);
        }
        if (Calls.Count > 0 && !IsText)
        {
            var (after, last) = (network.NewState(rule), network.NewState(rule, isExit: true));
            Enclose(network, answer, "<tool_call>\n", Call(network, json, arguments), "\n</tool_call>", after);
            network.States[after].IsExit = true;
            network.Byte(after, '\n', last);
            if (AllowsSeveralCalls)
            {
                var next = network.NewState(rule);
                network.Call(after, Newlines(network), next);
                Enclose(network, next, "<tool_call>\n", Call(network, json, arguments), "\n</tool_call>", after);
            }
        }
        var grammar = new Grammar(network, rule, Forbidden is null ? vocabulary : vocabulary.Without(Forbidden.Tokens), forbidden) { Reasoning = reasoning };
        // A tool that can never be called would be missed only by the model.
        if (arguments.Find(static a => a.Rule.Height >= GrammarAutomaton.MaximumNesting) is { Rule: not null } deep) throw TooDeep($"JSON schema of the arguments of '{deep.Tool}'");
        if (grammar.MinimumTokens < CompletionCosts.Impossible) return grammar;
        if (Forbidden is null) throw TooDeep("JSON schema");
        (this with { Forbidden = null }).Compile(vocabulary, hasTags, startsInReasoning);
        throw new ArgumentException("Additional property 'bad_words' leaves no answer: each that keeps to the schema or the tools has one of them in it, or needs one of those tokens.");

        NotSupportedException TooDeep(string schema) => new(network.Unmeetable is { } unmeetable ? $"{schema}: no document satisfies it: {unmeetable}." : $"{schema}: no document satisfies it that has at most {GrammarAutomaton.MaximumNesting} objects and arrays in one another.");
    }

    /// <summary>Text and calls in turn.</summary>
    private void AddText(GrammarNetwork network, JsonRules json, GrammarRule rule, List<(string Tool, GrammarRule Rule)> arguments, FreeText.Part first)
    {
        var (call, after) = (network.NewState(rule), network.NewState(rule, isExit: true));
        network.Call(rule.Start, FreeText.Rule(network, first), call);
        Enclose(network, call, "\n", Call(network, json, arguments), "\n</tool_call>", after);
        if (AllowsSeveralCalls) network.Call(after, FreeText.Rule(network, FreeText.Part.Between), call);
        else network.Byte(after, '\n', network.NewState(rule, isExit: true));
    }

    private static void Enclose(GrammarNetwork network, int from, string begin, GrammarRule inside, string close, int to)
    {
        var rule = network.States[from].Rule;
        var (first, last) = (network.NewState(rule), network.NewState(rule));
        network.Literal(from, Encoding.UTF8.GetBytes(begin), first);
        network.Call(first, inside, last);
        network.Literal(last, Encoding.UTF8.GetBytes(close), to);
    }

    /// <summary><c>{"name": …, "arguments": …}</c> of any of the tools; the rules of their arguments are added to a list.</summary>
    private GrammarRule Call(GrammarNetwork network, JsonRules json, List<(string Tool, GrammarRule Rule)> rules)
    {
        // A tag in a string of a call ends nothing; escapes are for what a schema leads the model through anyway.
        var open = IsText ? new JsonRules(network, escapesTags: false) : json;
        var rule = network.NewRule(nests: true);
        var (key, name, end) = (network.NewState(rule), network.NewState(rule), network.NewState(rule, isExit: true));
        network.Literal(rule.Start, "{\"name\":"u8, key);
        network.Call(key, json.Space, name);
        foreach (var (tool, arguments) in Calls)
        {
            var (comma, second, colon, value, close) = (network.NewState(rule), network.NewState(rule), network.NewState(rule), network.NewState(rule), network.NewState(rule));
            network.Literal(name, [.. open.Spell(tool), (byte)','], comma);
            network.Call(comma, json.Space, second);
            network.Literal(second, "\"arguments\":"u8, colon);
            network.Call(colon, json.Space, value);
            rules.Add((tool, IsObject(arguments) ? JsonSchemaCompiler.Compile(arguments, network, json) : open.Object));
            network.Call(value, rules[^1].Rule, close);
            network.Byte(close, '}', end);
        }
        return rule;
    }

    private static bool IsObject(JsonElement schema) => schema.ValueKind == JsonValueKind.Object && (schema.TryGetProperty("type", out _) || schema.TryGetProperty("properties", out _));

    private static GrammarRule Newlines(GrammarNetwork network)
    {
        var rule = network.NewRule(maximum: MaximumNewlines);
        network.States[rule.Start].IsExit = true;
        network.Byte(rule.Start, '\n', rule.Start, EdgeFlags.Counts);
        return rule;
    }

    /// <summary>Any text up to the tag that ends it. Its first character is the only one that can begin it anew.</summary>
    private static GrammarRule Reasoning(GrammarNetwork network)
    {
        var rule = network.NewRule(isText: true);
        var states = new List<int> { rule.Start };
        while (states.Count < ReasoningEnd.Length) states.Add(network.NewState(rule));
        states.Add(network.NewState(rule, isExit: true));
        for (var i = 0; i < ReasoningEnd.Length; i++)
        {
            network.Byte(states[i], ReasoningEnd[i], states[i + 1]);
            if (i > 0) network.Byte(states[i], '<', states[1]);
            var (low, high) = (Math.Min('<', ReasoningEnd[i]), Math.Max('<', ReasoningEnd[i]));
            network.Bytes(states[i], 0, (byte)(low - 1), rule.Start);
            if (low + 1 < high) network.Bytes(states[i], (byte)(low + 1), (byte)(high - 1), rule.Start);
            network.Runes(states[i], high + 1, 0x10FFFF, rule.Start);
        }
        return rule;
    }
}
