using System.Text.Json;
using System.Text.RegularExpressions;
using Ernie.Sdk.Chat.Grammars;
using Ernie.Sdk.Tests.Tokenization;

namespace Ernie.Sdk.Tests.Chat.Grammars;

public sealed class JsonSchemaCompilerTests
{
    [Theory]
    [InlineData("true", """{"a": [1, -2.5e3, "x\n", true, null, {}], "b":[]}""")]
    [InlineData("{}", "\"é🐼\\u00e9\\\"\"")]
    [InlineData("""{"type": "integer"}""", "-120", "0", "2147483647", "-2147483648", "!2147483648", "!-2147483649", "!718977777777777777", "!-0", "!01", "!1.0")]
    [InlineData("""{"type": "integer", "format": "int64"}""", "-999999999999999999", "999999999999999999", "!1234567890123456789")]
    [InlineData("""{"type": ["integer", "null"], "format": "uint8", "minimum": 7}""", "7", "255", "null", "!6", "!256")]
    [InlineData("""{"type": "integer", "minimum": 0}""", "2147483647", "!2147483648", "!-1")]
    [InlineData("""{"type": "integer", "maximum": 5000000000}""", "5000000000", "-2147483648", "!5000000001", "!-2147483649")]
    [InlineData("""{"type": "integer", "minimum": 3000000000}""", "3000000000", "999999999999999999", "!1")]
    [InlineData("""{"type": "number"}""", "1", "-0.25", "1e5", "2.5E-07", "6.02e23", "9.999e+27", "12.5e9", "6.6e-34", "!.5", "!1.", "!1e", "!1e123", "!1e28", "!12e10", "!1.5e99")]
    [InlineData("""{"type": ["string", "null"], "minLength": 1, "maxLength": 1}""", "null", "\"é\"", "\"\\u00e9\"", "\"\\n\"", "!\"\"", "!\"ab\"", "!\"🐼\"")]
    [InlineData("""{"type": "string", "format": "time"}""", "\"23:59:59\"", "\"00:00:00.1234567\"", "!\"24:00:00\"", "!\"12:00:00Z\"")]
    [InlineData("""{"type": "string", "format": "uri"}""", "\"https://example.com/a%20b/c/?d=e/f#g\"", "\"mailto:a.b@example.org\"", "\"urn:isbn:0451450523\"", "!\"http:\"", "!\"a b\"", "!\"http://-\"")]
    [InlineData("""{"type": "string", "contentEncoding": "base64"}""", "\"\"", "\"AA==\"", "\"AAE=\"", "\"Zm9v\"", "!\"A\"", "!\"AB==\"", "!\"é\"")]
    [InlineData("""{"type": "string", "pattern": "^-?(\\d+\\.)?\\d{2}:\\d{2}:\\d{2}(\\.\\d{1,7})?$"}""", "\"-9999999.23:59:59.1234567\"", "\"00:00:01\"", "!\"24:00:00\"", "!\"99999999.00:00:00\"")]
    [InlineData("""{"type": "string", "pattern": "^\\d+(\\.\\d+){1,3}$"}""", "\"1.0\"", "\"999999999.2.3.4\"", "!\"1\"", "!\"1.1234567890\"")]
    [InlineData("""{"type": ["string", "null"], "maxLength": 2}""", "null", "\"\"", "\"🐼é\"", "\"\\u00e9\\n\"", "!\"abc\"", "!1")]
    [InlineData("""{"type": "string", "minLength": 2}""", "!\"a\"", "\"ab\"", "!\"\\ud800\\udc00\"", "!\"a\nb\"")]
    [InlineData("""{"enum": ["a\"b", 1.50, null, {"x": [1, 2]}]}""", "\"a\\\"b\"", "1.50", "{\"x\":[1,2]}", "!\"a\"")]
    [InlineData("""{"enum": ["a", 1], "type": "string"}""", "\"a\"", "!1")]
    [InlineData("""{"const": "é"}""", "\"é\"", "!\"\\u00e9\"")]
    [InlineData("""{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "null"}, "c": true}, "required": ["b"]}""", "{\"b\":null}", "{\"a\": 1, \"b\": null}", "{\n  \"a\": 1,\n  \"b\": null,\n  \"c\": []\n}", "{\"b\":null,\"c\":1}", "!{}", "!{\"a\":1}", "!{\"b\":null,\"a\":1}", "!{\"b\":null,}", "!{\"b\":null,\"d\":1}", "!{,\"b\":null}")]
    [InlineData("""{"type": "object", "properties": {"ab": {"type": "integer"}, "o": {"type": "null"}}, "additionalProperties": {"type": "string"}}""", "{}", "{\"ab\":1,\"x\":\"y\"}", "{\"a\":\"\"}", "{\"abc\":\"\",\"é\":\"\"}", "{\"o\":null,\"ob\":\"\"}", "!{\"ab\":\"y\"}", "!{\"x\":1}", "!{\"x\":\"\",\"ab\":\"\"}", "!{\"\\u0061b\":\"\"}")]
    [InlineData("""{"type": "object", "required": ["z"]}""", "{\"z\":[]}", "{\"z\":1,\"y\":2}", "!{}", "!{\"y\":2}")]
    [InlineData("""{"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3}""", "[true]", "[true, false,\n  true]", "![]", "![true,true,true,true]", "![1]")]
    [InlineData("""{"type": "array", "prefixItems": [{"const": 1}, {"const": "b"}], "items": {"type": "null"}, "minItems": 1}""", "[1]", "[1,\"b\"]", "[1,\"b\",null,null]", "![]", "![\"b\"]", "![1,null]")]
    [InlineData("""{"prefixItems": [{"const": 1}], "items": false}""", "[]", "[1]", "![1,1]")]
    [InlineData("""{"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#"}}]}""", "1", "[1,[2,[]]]", "!\"a\"")]
    [InlineData("""{"oneOf": [{"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]}, {"type": "object", "properties": {"k": {"const": "b"}, "n": {"type": "number"}}, "required": ["k", "n"]}]}""", "{\"k\":\"a\"}", "{\"k\":\"b\",\"n\":1}", "!{\"k\":\"b\"}")]
    [InlineData("""{"$ref": "#/$defs/a~1b%25", "description": "x", "$defs": {"a/b%": {"type": "boolean"}}}""", "true", "!1")]
    [InlineData("""{"type": "string", "format": "date"}""", "\"2024-02-28\"", "!\"0000-02-28\"", "!\"2024-02-30\"", "!\"x\"")]
    [InlineData("""{"properties": {"%61": {"type": "boolean"}, "a": {"type": "null"}, "r": {"$ref": "#/properties/%61"}, "s": {"$ref": "#/properties/%2561"}}}""", "{\"r\":null}", "{\"s\":true}", "{\"%61\":true,\"a\":null}", "!{\"r\":true}", "!{\"s\":null}")]
    [InlineData("""{"anyOf": [false, {"type": "integer"}]}""", "1", "!true")]
    [InlineData("""{"oneOf": [{"type": "null"}, false, {"type": "integer"}]}""", "1", "null", "!true")]
    [InlineData("""{"type": "object", "properties": {"a": {"enum": []}, "b": {"type": "null"}}}""", "{\"b\":null}", "!{\"a\":1}")]
    [InlineData("""{"type": "string", "format": "color"}""", "\"x\"")]
    [InlineData("""{"type": "string", "pattern": "^a+$", "minLength": 2, "maxLength": 3}""", "\"aa\"", "\"aaa\"", "!\"a\"", "!\"aaaa\"")]
    [InlineData("""{"type": "string", "pattern": "^[\\n\"<]{2}$"}""", "\"\\n\\\"\"", "\"<\\n\"", "!\"a\"")]
    [InlineData("""{"type": ["string", "null"], "not": {"enum": ["ab", "b"]}}""", "\"a\"", "\"abc\"", "\"\"", "null", "!\"ab\"", "!\"b\"")]
    [InlineData("""{"type": "string", "not": {"const": "é"}}""", "\"e\"", "!\"é\"")]
    [InlineData("""{"type": "integer", "minimum": 1.5, "exclusiveMaximum": 12}""", "2", "11", "!1", "!12", "!-2")]
    public void Documents_AreThoseOfTheSchema(string schema, params string[] texts)
    {
        foreach (var text in texts)
        {
            if (text[0] == '!') Assert.False(Grammars.Accepts(schema, text[1..]), text);
            else Assert.True(Grammars.Accepts(schema, text), text);
        }
    }

    [Theory]
    [InlineData("""{"type": "object", "properties": {"a": {"not": {}}}}""", "'not' at #/properties/a")]
    [InlineData("""{"type": "string", "not": {"enum": ["a", 1]}}""", "'not' at #")]
    [InlineData("""{"type": "string", "not": {"enum": ["a"]}, "minLength": 2}""", "'not' at #")]
    [InlineData("""{"type": "array", "items": {"patternProperties": {}}}""", "'patternProperties' at #/items")]
    [InlineData("""{"type": "integer", "multipleOf": 3}""", "'multipleOf' at #")]
    [InlineData("""{"$defs": {"x": {"if": true}}, "$ref": "#/$defs/x"}""", "'if' at #/$defs/x")]
    [InlineData("""{"$ref": "other.json"}""", "'$ref' at #")]
    [InlineData("""{"anyOf": [true], "minLength": 2}""", "'minLength' at #")]
    [InlineData("""{"allOf": [true, true]}""", "'allOf' at #")]
    [InlineData("""{"oneOf": [{"type": "integer"}, {"type": "number"}]}""", "'oneOf' at #")]
    [InlineData("""{"type": "string", "pattern": "(?=a)b"}""", "'pattern' at #")]
    [InlineData("""{"type": "string", "pattern": "(?=a)b"}""", "look-around is not supported")]
    [InlineData("""{"type": "string", "pattern": "a(?<!b)"}""", "look-around is not supported")]
    [InlineData("""{"type": "string", "pattern": "\\bx"}""", "'pattern' at #")]
    [InlineData("""{"type": "object", "required": ["a"], "additionalProperties": false}""", "'required' at #")]
    [InlineData("""{"items": [true]}""", "'items' at #")]
    [InlineData("false", "'false' at #")]
    [InlineData("""{"type": "array", "minItems": 3, "maxItems": 2}""", "no document satisfies it: at # 'minItems' is more than 'maxItems'")]
    [InlineData("""{"prefixItems": [true], "items": false, "minItems": 2}""", "no document satisfies it: at # 'minItems' is more than the items")]
    [InlineData("""{"type": "array", "items": {"enum": []}, "minItems": 1}""", "no document satisfies it: at #/items 'enum' is empty")]
    [InlineData("""{"type": "string", "enum": [1]}""", "no document satisfies it: at # no value of 'enum' or 'const' is of its 'type'")]
    [InlineData("""{"type": "string", "minLength": 3, "maxLength": 2}""", "no document satisfies it: at # 'minLength' is more than 'maxLength'")]
    [InlineData("""{"type": "integer", "minimum": 0.2, "maximum": 0.8}""", "no document satisfies it: at # no integer lies between its bounds")]
    [InlineData("""{"type": "number", "minimum": 1, "maximum": 0}""", "no document satisfies it: at # no number lies between its bounds")]
    [InlineData("""{"anyOf": [false, false]}""", "'false' at #/anyOf/0")]
    [InlineData("""{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}""", "no document satisfies it")]
    [InlineData("""{"$ref": "#"}""", "no document satisfies it")]
    [InlineData("""{"type": "string", "pattern": "^a$", "minLength": 2}""", "no document satisfies it")]
    public void WhatIsOutsideTheSubset_IsRefused_WithKeywordAndPath(string schema, string message) =>
        Assert.Contains(message, Assert.Throws<NotSupportedException>(() => new Grammars(Tokenizers.Tiny, 2048).Compile(schema)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("""{"type": "colour"}""", "#/type")]
    [InlineData("""{"minLength": -1}""", "#/minLength")]
    [InlineData("""{"$ref": "#/$defs/none"}""", "#/$ref")]
    [InlineData("""{"required": 1}""", "#/required")]
    [InlineData("""{"properties": {"a": 3}}""", "#/properties/a")]
    [InlineData("""{"anyOf": []}""", "#/anyOf")]
    public void WhatIsNoSchema_IsRefused_WithItsPath(string schema, string path) =>
        Assert.StartsWith($"JSON schema: {path} is not valid", Assert.Throws<ArgumentException>(() => Grammars.Accepts(schema, "1")).Message, StringComparison.Ordinal);

    /// <summary>Every integer of a few hundred, against the bounds themselves.</summary>
    [Fact]
    public void Ranges_OfIntegers_AreExact()
    {
        var random = new Random(3);
        for (var i = 0; i < 200; i++)
        {
            var (low, high) = (random.Next(-300, 300), random.Next(-300, 300));
            var (least, most) = (i % 3 == 0 ? "exclusiveMinimum" : "minimum", i % 5 == 0 ? "exclusiveMaximum" : "maximum");
            var network = new GrammarNetwork();
            var automaton = Grammars.Automaton(network, JsonSchemaCompiler.Compile(JsonDocument.Parse($$"""{"type": "integer", "{{least}}": {{low}}, "{{most}}": {{high}}}""").RootElement, network, new JsonRules(network, false)));
            for (var value = -320; value < 320; value++)
            {
                var isInside = (i % 3 == 0 ? value > low : value >= low) && (i % 5 == 0 ? value < high : value <= high);
                Assert.True(isInside == Grammars.Accepts(automaton, value.ToString(System.Globalization.CultureInfo.InvariantCulture)), $"{value} in {least} {low}, {most} {high}");
            }
        }
    }

    /// <summary>No number outside the bounds, and of those inside at least the ones with as many decimals as the bounds.</summary>
    [Fact]
    public void Ranges_OfNumbers_AreSound()
    {
        var random = new Random(4);
        for (var i = 0; i < 60; i++)
        {
            var (low, high) = (random.Next(-400, 300) / 100m, random.Next(-300, 400) / 100m);
            var isExclusive = i % 2 == 0;
            var network = new GrammarNetwork();
            var automaton = Grammars.Automaton(network, JsonSchemaCompiler.Compile(JsonDocument.Parse(FormattableString.Invariant($$"""{"type": "number", "{{(isExclusive ? "exclusiveMinimum" : "minimum")}}": {{low}}, "{{(isExclusive ? "exclusiveMaximum" : "maximum")}}": {{high}}}""")).RootElement, network, new JsonRules(network, false)));
            for (var value = -4100; value <= 4100; value += 7)
            {
                var number = value / 1000m;
                foreach (var places in new[] { 0, 1, 2, 3, 5 })
                {
                    var text = number.ToString($"F{places}", System.Globalization.CultureInfo.InvariantCulture);
                    var written = decimal.Parse(text, System.Globalization.CultureInfo.InvariantCulture);
                    var isInside = isExclusive ? written > low && written < high : written >= low && written <= high;
                    var isAccepted = Grammars.Accepts(automaton, text);
                    if (text[0] == '-' && written == 0) continue;
                    if (isInside && places <= 2) Assert.True(isAccepted, $"{text} in {low} to {high}");
                    if (!isInside) Assert.False(isAccepted, $"{text} not in {low} to {high}");
                }
            }
        }
    }

    [Fact]
    public void NoisyDocuments_AreReadByDotNetsTypes()
    {
        var grammars = new Grammars(Tokenizers.Tiny, 2048);
        AssertAll("""{"type": "string", "format": "uri"}""", static json => Uri.TryCreate(JsonSerializer.Deserialize<string>(json), UriKind.Absolute, out _));
        AssertAll("""{"type": "string", "pattern": "^-?(\\d+\\.)?\\d{2}:\\d{2}:\\d{2}(\\.\\d{1,7})?$"}""", static json => JsonSerializer.Deserialize<TimeSpan>(json) is var _);
        AssertAll("""{"type": "string", "pattern": "^\\d+(\\.\\d+){1,3}$"}""", static json => JsonSerializer.Deserialize<Version>(json) is not null);
        AssertAll("""{"type": "string", "contentEncoding": "base64"}""", static json => JsonSerializer.Deserialize<byte[]>(json) is not null);
        AssertAll("""{"type": "integer"}""", static json => JsonSerializer.Deserialize<int>(json) is var _);
        AssertAll("""{"type": "number"}""", static json => JsonSerializer.Deserialize<decimal>(json) is var _ && float.IsFinite(JsonSerializer.Deserialize<float>(json)) && double.IsFinite(JsonSerializer.Deserialize<double>(json)));

        void AssertAll(string schema, Func<string, bool> reads)
        {
            var grammar = grammars.Compile(schema);
            for (var seed = 0; seed < 200; seed++)
            {
                var text = grammars.Write(grammar, grammar.MinimumTokens + (seed % 40), seed).Text;
                Assert.True(reads(text), text);
            }
        }
    }

    [Theory]
    [InlineData("^[a-c]{2,3}(x|yz)?$")]
    [InlineData("a.c")]
    [InlineData("^(ab|ba)*$|^c+")]
    [InlineData("^[^ab]+$")]
    [InlineData("\\d\\.\\w|x$")]
    [InlineData("^a??b*?c+?$")]
    [InlineData("^[\\w-]+[.]$")]
    public void Patterns_MatchAsDotNetsDo(string pattern)
    {
        var network = new GrammarNetwork();
        var automaton = Grammars.Automaton(network, PatternCompiler.Compile(pattern, network, new JsonRules(network, false), 0, int.MaxValue));
        var random = new Random(5);
        var matches = 0;
        for (var i = 0; i < 3000; i++)
        {
            var text = string.Concat(Enumerable.Range(0, random.Next(0, 7)).Select(_ => "abcxyz1.- é"[random.Next(11)]));
            var expected = Regex.IsMatch(text, pattern, RegexOptions.ECMAScript | RegexOptions.CultureInvariant);
            if (expected) matches++;
            Assert.True(expected == Grammars.Accepts(automaton, JsonSerializer.Serialize(text, s_relaxed)), $"{text} by {pattern}");
        }
        Assert.True(matches > 2);
    }

    private static readonly JsonSerializerOptions s_relaxed = new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
}
