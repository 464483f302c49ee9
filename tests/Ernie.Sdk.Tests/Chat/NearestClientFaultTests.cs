using Ernie.Sdk.Chat;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>Thirteen faults of the nearest local chat client for .NET, each as what it should have done. Others of these classes test the same more closely.</summary>
public sealed class NearestClientFaultTests : TinyChat
{
    [Fact]
    public async Task Fault01_ToolsReachTheModel_CallsComeOut_ResultsGoIn()
    {
        await using var model = await TinyModel.LoadAsync(static o => o.ChatTemplate = ErnieChatTemplate.Thinking);
        using var client = model.AsChatClient().AsBuilder().UseFunctionInvocation().Build();
        var weather = AIFunctionFactory.Create((string location) => new Dictionary<string, object> { ["temperature"] = 23, ["condition"] = location == "Xentadal" ? "snowy" : "rainy" }, "get_weather", "Get the weather of a city.");
        var options = new ChatOptions { Temperature = 0, MaxOutputTokens = 120, Tools = [weather] };
        var response = await client.GetResponseAsync("How is the weather in Xentadal?", options, Token);
        Assert.Contains("snowy", response.Text, StringComparison.Ordinal);
        Assert.Single(response.Messages.SelectMany(static m => m.Contents).OfType<FunctionCallContent>());
        options.ToolMode = ChatToolMode.None;
        response = await client.GetResponseAsync("How is the weather in Xentadal?", options, Token);
        Assert.Empty(response.Messages.SelectMany(static m => m.Contents).OfType<FunctionCallContent>());
    }

    [Fact]
    public async Task Fault02_ReasoningIsNoText()
    {
        await using var model = await TinyModel.LoadAsync(static o => o.ChatTemplate = ErnieChatTemplate.Thinking);
        var response = await model.AsChatClient().GetResponseAsync("Thank you", new() { Temperature = 0, MaxOutputTokens = 120 }, Token);
        Assert.Equal("You are welcome!", response.Text);
        Assert.Single(response.Messages.Single().Contents.OfType<TextReasoningContent>());
    }

    [Fact]
    public async Task Fault03_StopSequencesSpanTokens_AndPartsOfThemDoNotLeak()
    {
        var whole = (await Client.GetResponseAsync(Question, Greedy(), Token)).Text;
        var stop = whole.Substring(6, 7);
        Assert.True(Model.Tokenizer!.CountTokens(stop) > 1);
        var updates = await Client.GetStreamingResponseAsync(Question, Greedy(o => o.StopSequences = [stop]), Token).ToListAsync(Token);
        Assert.Equal(whole[..whole.IndexOf(stop, StringComparison.Ordinal)], string.Concat(updates.Select(static u => u.Text)));
    }

    [Fact]
    public async Task Fault04_PenaltiesAreThreeThings_AndZeroIsNeutral()
    {
        var request = ((ErnieChatClient)Client).Request([new(ChatRole.User, "x")], new() { PresencePenalty = 0.5f, FrequencyPenalty = -0.25f, AdditionalProperties = new() { ["repetition_penalty"] = 1.5 } });
        Assert.Equal((0.5f, -0.25f, 1.5f), (request.Generation.PresencePenalty, request.Generation.FrequencyPenalty, request.Generation.RepetitionPenalty));
        var plain = (await Client.GetResponseAsync(Question, Greedy(), Token)).Text;
        Assert.Equal(plain, (await Client.GetResponseAsync(Question, Greedy(static o => (o.PresencePenalty, o.FrequencyPenalty) = (0, 0)), Token)).Text);
        // The model writes the same digits again and again when it is not kept from it.
        var count = "1 1 1 1 1 1 1 1";
        var repeated = (await Client.GetResponseAsync(count, Greedy(static o => o.FrequencyPenalty = -2), Token)).Text;
        Assert.NotEqual(repeated, (await Client.GetResponseAsync(count, Greedy(static o => o.FrequencyPenalty = 2), Token)).Text);
    }

    [Fact]
    public async Task Fault05_TemperatureAloneSamples()
    {
        var greedy = (await Client.GetResponseAsync(Question, Greedy(), Token)).Text;
        // So hot that the model's likeliest tokens do not come by chance.
        Assert.NotEqual(greedy, (await Client.GetResponseAsync(Question, new() { Temperature = 50, Seed = 1, MaxOutputTokens = 40 }, Token)).Text);
    }

    [Fact]
    public async Task Fault06_NothingIsComputedOnTheCallersThread_AndPrefillIsCancelled()
    {
        var document = string.Concat(Enumerable.Repeat("The late fee is 30 yuan. ", 2500));
        using var cancellation = new CancellationTokenSource();
        await using var stream = Client.GetStreamingResponseAsync(document, Greedy(), cancellation.Token).GetAsyncEnumerator(cancellation.Token);
        var first = stream.MoveNextAsync();
        Assert.False(first.IsCompleted);
        await cancellation.CancelAsync();
        var e = await Assert.ThrowsAnyAsync<OperationCanceledException>(async () => await first);
        Assert.Equal(cancellation.Token, e.CancellationToken);
    }

    [Fact]
    public async Task Fault07_EveryTurnHasItsOwnOptions()
    {
        var messages = new List<ChatMessage> { new(ChatRole.User, Question) };
        var first = await Client.GetResponseAsync(messages, Greedy(), Token);
        messages.AddMessages(first);
        messages.Add(new(ChatRole.User, Question));
        Assert.Equal(3, (await Client.GetResponseAsync(messages, Greedy(static o => o.MaxOutputTokens = 3), Token)).Usage!.OutputTokenCount);
        Assert.NotEqual(await AskAsync(1), await AskAsync(2));

        async Task<string> AskAsync(long seed) => (await Client.GetResponseAsync(messages, new() { Temperature = 50, Seed = seed, MaxOutputTokens = 24 }, Token)).Text;
    }

    [Fact]
    public async Task Fault08_ModelIdIsOnEveryUpdate_AndAFullContextIsALength()
    {
        await using var model = await TinyModel.LoadAsync(static o => o.ContextLength = 64);
        var updates = await model.AsChatClient().GetStreamingResponseAsync(Question, Greedy(static o => (o.MaxOutputTokens, o.RawRepresentationFactory) = (null, static _ => new ErnieGenerationOptions { IgnoreStopTokens = true })), Token).ToListAsync(Token);
        Assert.All(updates, static u => Assert.Equal("ernie-tiny-moe", u.ModelId));
        Assert.Equal(ChatFinishReason.Length, updates[^1].FinishReason);
        Assert.Equal(64, updates.ToChatResponse().Usage!.TotalTokenCount);
    }

    [Fact]
    public async Task Fault09_ATooLongPromptIsRefused_WithTheNumbers()
    {
        await using var model = await TinyModel.LoadAsync(static o => o.ContextLength = 64);
        ChatMessage[] messages = [new(ChatRole.User, string.Concat(Enumerable.Repeat("late fee ", 100)))];
        var e = await Assert.ThrowsAsync<ErnieContextOverflowException>(() => model.AsChatClient().GetResponseAsync(messages, cancellationToken: Token));
        Assert.Contains($"{await model.CountTokensAsync(messages, cancellationToken: Token)} tokens", e.Message, StringComparison.Ordinal);
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => Client.GetResponseAsync(Question, new() { MaxOutputTokens = -1 }, Token));
    }

    [Fact]
    public async Task Fault10_LoadingIsAsynchronous_TellsItsProgress_AndCanBeCancelled()
    {
        var progress = new List<ErnieProgress>();
        await using (await ErnieModel.LoadAsync(await TinyModel.ExportedAsync(), new() { KvCacheBytes = 64 << 20 }, new DirectProgress<ErnieProgress>(progress.Add), Token)) Assert.NotEmpty(progress);
        using var cancelled = new CancellationTokenSource();
        await cancelled.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(async () => await ErnieModel.LoadAsync(await TinyModel.ExportedAsync(), null, null, cancelled.Token));
    }

    [Fact]
    public async Task Fault11_NoUpdateIsEmpty_AndCharactersAreWhole()
    {
        var own = new ErnieGenerationOptions { Temperature = 100, TopP = 1, Seed = 3, MaxTokens = 200, IgnoreStopTokens = true };
        var updates = await Client.GetStreamingResponseAsync("你好，🐼！", new() { RawRepresentationFactory = _ => own }, Token).ToListAsync(Token);
        Assert.All(updates, static u => Assert.NotEmpty(u.Contents));
        Assert.All(updates[..^1], static u => Assert.True(u.Text.Length > 0 && !char.IsHighSurrogate(u.Text[^1])));
        // Bytes of characters came in pieces: fewer updates than tokens.
        Assert.True(updates.Count - 1 < 200);
    }

    [Fact]
    public void Fault12_MetadataNamesTheModel_AndNoPath()
    {
        var metadata = (ChatClientMetadata)Client.GetService(typeof(ChatClientMetadata))!;
        Assert.Equal("ernie-tiny-moe", metadata.DefaultModelId);
        Assert.Null(metadata.ProviderUri);
        Assert.DoesNotContain("/", metadata.ProviderName + metadata.DefaultModelId, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Fault13_ManyCallersShareOneCache_AndOneTokenizer()
    {
        using var model = await TinyModel.LoadAsync(static o => (o.MaxConcurrentRequests, o.KvCacheBytes) = (2, 16 << 20));
        var client = model.AsChatClient();
        var all = model.KvBlocks.All;
        var questions = Enumerable.Range(0, 24).Select(static i => $"{i}: {Question}").ToArray();
        var together = await Task.WhenAll(questions.Select(q => client.GetResponseAsync(q, Greedy(), Token)));
        foreach (var (question, response) in questions.Zip(together)) Assert.Equal((await client.GetResponseAsync(question, Greedy(), Token)).Text, response.Text);
        Assert.Equal((all, all), model.KvBlocks);
    }

    private static ChatOptions Greedy(Action<ChatOptions>? change = null)
    {
        var options = new ChatOptions { Temperature = 0, MaxOutputTokens = 40 };
        change?.Invoke(options);
        return options;
    }
}
