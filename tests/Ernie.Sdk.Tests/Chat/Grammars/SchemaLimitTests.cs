using System.Text.Json;
using Ernie.Sdk.Chat.Grammars;
using Ernie.Sdk.Tests.Tokenization;

namespace Ernie.Sdk.Tests.Chat.Grammars;

/// <summary>Schemas come from anybody who may ask: none ends the process, fills its memory or keeps it from answering.</summary>
public sealed class SchemaLimitTests
{
    public static TheoryData<string, string> Patterns => new()
    {
        { Repeat("(", 20_000) + "a" + Repeat(")", 20_000), "'pattern' at #/items is not supported: it is nested too deeply" },
        { Repeat("(", 20_000), "'pattern' at #/items is not supported: it is nested too deeply" },
        { "a" + Repeat("{1}", 50_000), "'pattern' at #/items is not supported: it is nested too deeply" },
        { Repeat("(", 100) + "a" + Repeat(Repeat("{1}", 100) + ")", 100), "'pattern' at #/items is not supported: it is nested too deeply" },
        { "^" + Repeat("a?b?c?d?e?f?g?h?", 400) + "$", "'pattern' at #/items is not supported: it takes, with those before it, more than 10,000,000 steps" },
        { "[" + Repeat("a", 10_000) + "]{10000}", "'pattern' at #/items is not supported: it " },
        { "(a{100}){100}", "'pattern' at #/items is not supported: it " },
    };

    [Theory]
    [MemberData(nameof(Patterns), DisableDiscoveryEnumeration = true)]
    public void Patterns_BeyondALimit_AreRefused(string pattern, string message) =>
        AssertRefused(JsonSerializer.Serialize(new { type = "array", items = new { type = "string", pattern } }), message);

    [Theory]
    [InlineData("^((((((((((a|b))))))))))$")]
    [InlineData("^(a?b?c?d?e?f?g?h?){20}$")]
    [InlineData("^[a-z0-9._-]{1,64}@[a-z0-9-]{1,63}(\\.[a-z0-9-]{1,63}){1,4}$")]
    [InlineData("^.{0,200}$")]
    public void Patterns_OfAnOrdinarySize_AreNot(string pattern)
    {
        var network = new GrammarNetwork();
        PatternCompiler.Compile(pattern, network, new JsonRules(network, false), 0, int.MaxValue);
        Assert.InRange(network.PatternSteps, 1, 2_000_000);
    }

    [Fact]
    public void Patterns_OfFormats_LeaveRoomForMore()
    {
        foreach (var (format, pattern) in SchemaFormats.Strings)
        {
            var network = new GrammarNetwork();
            PatternCompiler.Compile(pattern, network, new JsonRules(network, false), 0, int.MaxValue);
            Assert.True(network.PatternSteps < 2_000_000, $"{format}: {network.PatternSteps}");
        }
    }

    [Fact]
    public void LongTexts_ThatAreDenied_AreRefused()
    {
        var text = Repeat("a", 100_000);
        AssertRefused($$$"""{"type": "string", "not": {"const": "{{{text}}}"}}""", "'not' at # is not supported: what it leaves out is too long");
        AssertRefused($$$"""{"properties": {"{{{text}}}": true}, "additionalProperties": true}""", "'additionalProperties' at # is not supported: what it leaves out is too long");
    }

    [Fact]
    public void References_NestedTooDeeply_AreRefused_WithTheirPath()
    {
        var definitions = string.Join(',', Enumerable.Range(0, 4900).Select(static i => $$"""  "d{{i}}": {"$ref": "#/$defs/d{{i + 1}}"} """));
        AssertRefused($$$"""{"$ref": "#/$defs/d0", "$defs": { {{{definitions}}}, "d4900": true}}""", "'schema' at #/$defs/d255 is not supported: it is nested too deeply");
    }

    /// <summary>Each is compiled before what refers to it, so none is nested; what follows their calls must not take the thread's stack either.</summary>
    [Fact]
    public void References_ThatAreManyButResolved_TakeNoStack()
    {
        var definitions = string.Join(',', Enumerable.Range(1, 4899).Select(static i => $$"""  "d{{i}}": {"$ref": "#/$defs/d{{i - 1}}"} """));
        var references = string.Join(',', Enumerable.Range(0, 4900).Select(static i => $$"""{"$ref": "#/$defs/d{{i}}"}"""));
        Assert.Equal(1, OnASmallStack($$$"""{"anyOf": [{{{references}}}], "$defs": {"d0": {"const": 1}, {{{definitions}}}}}"""));
    }

    [Fact]
    public void OptionalProperties_ThatAreMany_TakeNoStack()
    {
        var properties = string.Join(',', Enumerable.Range(0, 4000).Select(static i => $"\"p{i}\": {{\"const\": 1}}"));
        Assert.InRange(OnASmallStack($$$"""{"type": "object", "properties": { {{{properties}}} }}"""), 1, 2);
    }

    [Fact]
    public void Constants_ThatAreNestedTooDeeply_AreRefused()
    {
        var schema = JsonDocument.Parse($$"""{"const": {{Repeat("[", 2000)}}{{Repeat("]", 2000)}}}""", new JsonDocumentOptions { MaxDepth = 10_000 });
        AssertRefused(schema.RootElement, "more than 64 objects and arrays in one another");
    }

    [Fact]
    public void Constants_ThatTakeTooManyStates_AreRefused()
    {
        var values = string.Join(',', Enumerable.Range(0, 4).Select(static i => $"\"{Repeat($"{i}", 1_000_000)}\""));
        AssertRefused($$"""{"enum": [{{values}}]}""", "more than 200,000 states");
    }

    [Fact]
    public void Cache_LeavesOutTheOldest_OfWhatIsTooLargeTogether()
    {
        var cache = new GrammarCache(Tokenizers.Tiny, hasTags: false, maximumStates: 2500);
        var (a, b) = (Get('a'), Get('b'));
        Assert.Same(a, Get('a'));
        var c = Get('c');
        Assert.Same(a, Get('a'));
        Assert.Same(c, Get('c'));
        Assert.NotSame(b, Get('b'));

        Grammar Get(char character) => cache.Get(new OutputGrammar(true, JsonDocument.Parse($$"""{"const": "{{new string(character, 1000)}}"}""").RootElement, [], false), startsInReasoning: false);
    }

    private static int OnASmallStack(string schema)
    {
        var tokens = 0;
        var grammars = new Grammars(Tokenizers.Tiny, 2048);
        var thread = new Thread(() => tokens = grammars.Compile(schema).MinimumTokens, 512 << 10);
        thread.Start();
        thread.Join();
        return tokens;
    }

    private static void AssertRefused(string schema, string message) => AssertRefused(JsonDocument.Parse(schema).RootElement, message);

    private static void AssertRefused(JsonElement schema, string message)
    {
        var network = new GrammarNetwork();
        Assert.Contains(message, Assert.Throws<NotSupportedException>(() => JsonSchemaCompiler.Compile(schema, network, new JsonRules(network, false))).Message, StringComparison.Ordinal);
    }

    private static string Repeat(string text, int count) => new System.Text.StringBuilder().Insert(0, text, count).ToString();
}
