using System.Text;
using System.Text.Json;
using CsCheck;
using Ernie.Sdk.Chat.Parsing;
using Ernie.Sdk.Chat.Templates;

namespace Ernie.Sdk.Tests.Chat.Parsing;

public sealed class OutputParserTests
{
    private static readonly string[] s_pieces = ["<think>", "</think>", "<response>", "</response>", "<tool_call>", "</tool_call>", "\n", "\n\n", "<", ">", "/", "\"", "\\", "{", "}", " ", "a", "think", "response>", "tool_call>", "</", "{\"name\": \"f\", \"arguments\": {\"x\": 1}}", "{\"name\": \"g\"}", "\"</tool_call>\"", "你😀"];

    [Fact]
    public void RecordedOutputs_GiveTheirParts_HoweverTheyAreCut()
    {
        var random = new Random(1);
        var rows = 0;
        foreach (var line in File.ReadLines(SharedData.Path("chat", "parser.jsonl")))
        {
            var row = JsonDocument.Parse(line).RootElement;
            var text = row.GetProperty("text").GetString()!;
            var expected = row.GetProperty("expected");
            var wanted = new Parsed(expected.GetProperty("reasoning").GetString()!, expected.GetProperty("content").GetString()!,
                string.Join('\n', expected.GetProperty("tool_calls").EnumerateArray().Select(static call => $"{call.GetProperty("name").GetString()} {PythonJson.Serialize(call.GetProperty("arguments"))}")));
            Assert.Equal((row.GetProperty("name").GetString(), wanted), (row.GetProperty("name").GetString(), Parse([text])));
            Assert.Equal(wanted, Parse(text.Select(static c => c.ToString())));
            for (var cut = 1; cut < text.Length; cut++) Assert.Equal(wanted, Parse([text[..cut], text[cut..]]));
            for (var i = 0; i < 20; i++) Assert.Equal(wanted, Parse(Cut(text, random)));
            rows++;
        }
        Assert.Equal(91, rows);
    }

    [Fact]
    public void AnyOutput_GivesTheSameParts_HoweverItIsCut()
    {
        Gen.Select(Gen.Int[0, s_pieces.Length - 1].Select(static i => s_pieces[i]).Array[0, 25], Gen.Int, Gen.Bool).Sample((pieces, seed, startsInReasoning) =>
        {
            var text = string.Concat(pieces);
            var whole = Parse([text], startsInReasoning);
            Assert.Equal(whole, Parse(text.Select(static c => c.ToString()), startsInReasoning));
            Assert.Equal(whole, Parse(Cut(text, new Random(seed)), startsInReasoning));
        }, iter: 20_000);
    }

    [Fact]
    public void ReasoningAndAnswer_ComeAsSoonAsTheyAreCertain()
    {
        var parser = new OutputParser(startsInReasoning: true);
        Assert.Equal([new ReasoningPart("Hm")], parser.Append("Hm"));
        Assert.True(parser.IsReasoning);
        Assert.Empty(parser.Append("\n</thi"));
        Assert.Equal([new ReasoningPart("\n</this>")], parser.Append("s>"));
        Assert.Empty(parser.Append("\n</think>\n"));
        Assert.False(parser.IsReasoning);
        Assert.Equal([new AnswerPart("Yes")], parser.Append("\n<response>\nYes"));
        Assert.Equal([new AnswerPart(".")], parser.Append(".\n</response>"));
        var call = Assert.IsType<CallPart>(Assert.Single(parser.Append("\n<tool_call>\n{\"name\": \"f\"}\n</tool_call>")));
        Assert.Equal(("f", "{}", "<tool_call>\n{\"name\": \"f\"}\n</tool_call>"), (call.Name, call.Arguments.GetRawText(), call.Source));
        Assert.Empty(parser.Append("\n<tool_call>\n{\"na"));
        Assert.Equal([new BrokenCallPart("<tool_call>\n{\"na", "the output ends within it")], parser.Finish());
    }

    [Theory]
    [InlineData("Hello", "", "Hello")]
    [InlineData("\n<think>\nHm\n</think>\n\nHello", "Hm", "Hello")]
    [InlineData("<response>\nHello\n</response>", "", "Hello")]
    [InlineData("<thin", "", "<thin")]
    public void WithoutABegunReasoning_TheOutputSaysWhatItIs(string text, string reasoning, string answer)
    {
        Assert.Equal(new Parsed(reasoning, answer, ""), Parse([text], startsInReasoning: false));
        Assert.Equal(new Parsed(reasoning, answer, ""), Parse(text.Select(static c => c.ToString()), startsInReasoning: false));
    }

    private static Parsed Parse(IEnumerable<string> pieces, bool startsInReasoning = true)
    {
        var parser = new OutputParser(startsInReasoning);
        StringBuilder reasoning = new(), answer = new();
        var calls = new List<string>();
        foreach (var part in pieces.SelectMany(parser.Append).Concat(Rest()))
        {
            switch (part)
            {
                case ReasoningPart { Text: var text }:
                    Assert.NotEqual("", text);
                    reasoning.Append(text);
                    break;
                case AnswerPart { Text: var text }:
                    Assert.NotEqual("", text);
                    answer.Append(text);
                    break;
                case CallPart call:
                    calls.Add($"{call.Name} {PythonJson.Serialize(call.Arguments)}");
                    break;
                case BrokenCallPart { Source: var text }:
                    answer.Append(text);
                    break;
            }
        }
        return new Parsed(reasoning.ToString(), answer.ToString(), string.Join('\n', calls));

        // Only when all pieces are read.
        IEnumerable<OutputPart> Rest()
        {
            foreach (var part in parser.Finish()) yield return part;
        }
    }

    private static List<string> Cut(string text, Random random)
    {
        var pieces = new List<string>();
        for (var at = 0; at < text.Length;)
        {
            var length = Math.Min(random.Next(0, 9), text.Length - at);
            pieces.Add(text.Substring(at, length));
            at += length;
        }
        return pieces;
    }

    private sealed record Parsed(string Reasoning, string Answer, string Calls);
}
