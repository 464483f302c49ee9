using System.Text.Json;
using Ernie.Sdk.Chat;
using Ernie.Sdk.Chat.Parsing;
using Ernie.Sdk.Chat.Templates;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Tests.Tokenization;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>What becomes of scripted tokens.</summary>
public sealed class AnswerStreamTests
{
    private const string Call = "Look it up.\n</think>\n\n<response>\nOne moment.\n</response>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1.5, \"é\"], \"y\": null}}\n</tool_call>\n";
    private static readonly JsonElement[] s_tools = [JsonSerializer.SerializeToElement(new { type = "function" })];
    private static readonly string[] s_names = ["f", "g", "stop here"];

    [Fact]
    public async Task ReasoningAnswerAndCall_BecomeTheirContents()
    {
        var (updates, response) = await ReadAsync(Call, r => r with { Tools = s_tools, ToolNames = s_names });
        Assert.Collection(response.Messages.Single().Contents,
            static content => Assert.Equal("Look it up.", Assert.IsType<TextReasoningContent>(content).Text),
            static content => Assert.Equal("One moment.", Assert.IsType<TextContent>(content).Text),
            static content =>
            {
                var call = Assert.IsType<FunctionCallContent>(content);
                Assert.Equal("f", call.Name);
                Assert.StartsWith("call-", call.CallId, StringComparison.Ordinal);
                Assert.Null(call.Exception);
                Assert.Equal(["x", "y"], call.Arguments!.Keys);
                Assert.Equal("""[1.5, "é"]""", Assert.IsType<JsonElement>(call.Arguments["x"]).GetRawText());
                Assert.Equal(JsonValueKind.Null, Assert.IsType<JsonElement>(call.Arguments["y"]).ValueKind);
            });
        Assert.Equal(ChatFinishReason.ToolCalls, response.FinishReason);
        Assert.Equal("One moment.", response.Text);
        Assert.Single(updates.SelectMany(static u => u.Contents).OfType<UsageContent>());
        Assert.All(updates, static u => Assert.NotEmpty(u.Contents));
    }

    [Fact]
    public async Task ReasoningTokens_AreCounted_HiddenOrNot()
    {
        // The closing tag is written while the model still reasons.
        var reasoning = Tokenizers.Tiny.EncodeToIds("Look it up.\n</think>", allowSpecialTokens: true).Count;
        foreach (var hides in new[] { false, true })
        {
            var (updates, response) = await ReadAsync(Call, r => r with { Tools = s_tools, ToolNames = s_names, HidesReasoning = hides });
            var usage = response.Usage!;
            Assert.Equal((reasoning, 5), (usage.ReasoningTokenCount, usage.CachedInputTokenCount));
            Assert.Equal((7, Tokenizers.Tiny.EncodeToIds(Call, allowSpecialTokens: true).Count + 1), (usage.InputTokenCount, usage.OutputTokenCount));
            Assert.Equal(usage.InputTokenCount + usage.OutputTokenCount, usage.TotalTokenCount);
            Assert.Equal(!hides, updates.SelectMany(static u => u.Contents).OfType<TextReasoningContent>().Any());
        }
    }

    [Fact]
    public async Task SeveralCalls_HaveIdsOfTheirOwn_AndCanBeForbidden()
    {
        const string Two = "r\n</think>\n<tool_call>\n{\"name\": \"f\"}\n</tool_call>\n<tool_call>\n{\"name\": \"g\"}\n</tool_call>\n<tool_call>\n{\"name\": \"f\"}\n</tool_call>";
        var (_, all) = await ReadAsync(Two, r => r with { Tools = s_tools, ToolNames = s_names });
        var calls = all.Messages.Single().Contents.OfType<FunctionCallContent>().ToList();
        Assert.Equal(["f", "g", "f"], calls.Select(static c => c.Name));
        Assert.Equal(3, calls.Select(static c => c.CallId).Distinct().Count());

        var (_, one) = await ReadAsync(Two, r => r with { Tools = s_tools, ToolNames = s_names, AllowsMultipleCalls = false }, FinishReason.Length);
        Assert.Equal("f", Assert.Single(one.Messages.Single().Contents.OfType<FunctionCallContent>()).Name);
        Assert.Equal(ChatFinishReason.ToolCalls, one.FinishReason);
        Assert.True(one.Usage!.OutputTokenCount < all.Usage!.OutputTokenCount);
    }

    [Theory]
    [InlineData("r\n</think>\n<tool_call>\n{name: f}\n</tool_call>", false, "not valid JSON")]
    [InlineData("r\n</think>\n<tool_call>\n{\"name\": \"f\", \"arguments\": [1]}\n</tool_call>", false, "not a JSON object")]
    [InlineData("r\n</think>\n<tool_call>\n{\"name\": \"f\", \"argum", true, "ends within it")]
    public async Task ABrokenCall_IsAnErrorContentOrText(string output, bool isCut, string reason)
    {
        var written = output[output.IndexOf("<tool_call>", StringComparison.Ordinal)..];
        var (finish, expected) = isCut ? (FinishReason.Length, ChatFinishReason.Length) : (FinishReason.Stop, ChatFinishReason.Stop);
        var (_, response) = await ReadAsync(output, r => r with { Tools = s_tools, ToolNames = s_names }, finish);
        var error = Assert.Single(response.Messages.Single().Contents.OfType<ErrorContent>());
        Assert.Contains(reason, error.Message, StringComparison.Ordinal);
        Assert.Equal(("broken_tool_call", written), (error.ErrorCode, error.Details));
        Assert.Equal(("", expected), (response.Text, response.FinishReason));

        // Where no tools were offered, it is what the model had to say.
        var (_, text) = await ReadAsync(output, r => r, finish);
        Assert.Equal((written, expected), (text.Text, text.FinishReason));
        Assert.Empty(text.Messages.Single().Contents.OfType<ErrorContent>());
    }

    [Fact]
    public async Task ACallThatNobodyAskedFor_IsText()
    {
        var (_, response) = await ReadAsync(Call, r => r);
        Assert.Equal("One moment." + Call[Call.IndexOf("<tool_call>", StringComparison.Ordinal)..].TrimEnd('\n'), response.Text);
        Assert.Equal(ChatFinishReason.Stop, response.FinishReason);
    }

    [Fact]
    public async Task StopSequences_LookAtTheAnswerOnly()
    {
        const string Output = "stop here\n</think>\n<response>\nGo on, stop here, no more.\n</response>\n<tool_call>\n{\"name\": \"stop here\"}\n</tool_call>";
        var (updates, response) = await ReadAsync(Output, r => r with { Tools = s_tools, ToolNames = s_names, StopSequences = ["stop here"] });
        Assert.Equal("Go on, ", response.Text);
        Assert.Equal("stop here", string.Concat(updates.SelectMany(static u => u.Contents).OfType<TextReasoningContent>().Select(static c => c.Text)));
        Assert.Empty(updates.SelectMany(static u => u.Contents).OfType<FunctionCallContent>());
        Assert.Equal(ChatFinishReason.Stop, response.FinishReason);

        (_, response) = await ReadAsync(Output, r => r with { Tools = s_tools, ToolNames = s_names, StopSequences = ["more.#", "x"] });
        Assert.Equal("Go on, stop here, no more.", response.Text);
        Assert.Equal(ChatFinishReason.ToolCalls, response.FinishReason);
    }

    [Fact]
    public async Task WithoutAParser_TagsAreText()
    {
        var (_, response) = await ReadAsync(Call, r => r, hasParser: false);
        Assert.Equal(Call, response.Text);
        Assert.Null(response.Usage!.ReasoningTokenCount);
    }

    private static async Task<(List<ChatResponseUpdate> Updates, ChatResponse Response)> ReadAsync(string output, Func<ChatRequest, ChatRequest> change, FinishReason finish = FinishReason.Stop, bool hasParser = true)
    {
        var stream = new AnswerStream(Tokenizers.Tiny, change(new ChatRequest([new TemplateMessage("user", "x")], new ErnieGenerationOptions())), "model", hasParser ? new OutputParser(startsInReasoning: true) : null);
        var updates = await stream.ReadAsync(Script(output, finish), 7).ToListAsync(TestContext.Current.CancellationToken);
        return (updates, updates.ToChatResponse());
    }

    private static async IAsyncEnumerable<GeneratedToken> Script(string output, FinishReason finish)
    {
        var ids = Tokenizers.Tiny.EncodeToIds(output, allowSpecialTokens: true);
        for (var i = 0; i < ids.Count; i++)
        {
            await Task.Yield();
            yield return new GeneratedToken(ids[i], i == ids.Count - 1 && finish == FinishReason.Length ? FinishReason.Length : null, i == 0 ? 5 : 0);
        }
        if (finish == FinishReason.Stop) yield return new GeneratedToken(2, FinishReason.Stop, 0);
    }
}
