using System.Collections.Concurrent;
using System.Diagnostics;
using Ernie.Sdk.Chat;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Caching.Distributed;
using Microsoft.Extensions.Logging.Abstractions;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>What an <see cref="IChatClient"/> owes its callers, on the shipped model.</summary>
public sealed class ChatClientTests : TinyChat
{
    private static readonly ChatOptions s_greedy = new() { Temperature = 0, MaxOutputTokens = 40 };

    [Fact]
    public async Task NullArguments_AreRefused()
    {
        await Assert.ThrowsAsync<ArgumentNullException>(() => Client.GetResponseAsync((IEnumerable<ChatMessage>)null!, cancellationToken: Token));
        Assert.Throws<ArgumentNullException>(() => Client.GetStreamingResponseAsync((IEnumerable<ChatMessage>)null!, cancellationToken: Token));
        Assert.Throws<ArgumentNullException>(() => Client.GetService(null!));
        await Assert.ThrowsAsync<ArgumentNullException>(() => Model.CountTokensAsync(null!, cancellationToken: Token));
        await Assert.ThrowsAsync<ArgumentException>(() => Client.GetResponseAsync([], cancellationToken: Token));
        await Assert.ThrowsAnyAsync<ArgumentException>(() => Client.GetResponseAsync([null!], cancellationToken: Token));
    }

    [Fact]
    public void Services_AreItselfItsMetadataItsModelAndItsTokenizer()
    {
        Assert.Same(Client, Client.GetService(typeof(IChatClient)));
        Assert.Same(Client, Client.GetService(Client.GetType()));
        Assert.Same(Model, Client.GetService(typeof(ErnieModel)));
        Assert.Same(Model.Tokenizer, Client.GetService(typeof(ErnieTokenizer)));
        Assert.Same(Model.Tokenizer, Client.GetService(typeof(Microsoft.ML.Tokenizers.Tokenizer)));
        Assert.Null(Client.GetService(typeof(string)));
        Assert.Null(Client.GetService(typeof(IChatClient), "key"));
        var metadata = Assert.IsType<ChatClientMetadata>(Client.GetService(typeof(ChatClientMetadata)));
        Assert.Equal(("ernie", null, "ernie-tiny-moe"), (metadata.ProviderName, metadata.ProviderUri, metadata.DefaultModelId));
        Assert.DoesNotContain(Path.DirectorySeparatorChar, $"{metadata.DefaultModelId}{metadata.ProviderName}");
    }

    [Fact]
    public async Task Updates_CarryIds_AndUsageAndFinishReasonOnce()
    {
        var updates = await Client.GetStreamingResponseAsync(Question, s_greedy, Token).ToListAsync(Token);
        Assert.True(updates.Count > 3);
        foreach (var update in updates)
        {
            Assert.Equal(ChatRole.Assistant, update.Role);
            Assert.Equal("ernie-tiny-moe", update.ModelId);
            Assert.Equal(updates[0].ResponseId, update.ResponseId);
            Assert.Equal(updates[0].MessageId, update.MessageId);
            Assert.NotNull(update.ResponseId);
            Assert.NotNull(update.MessageId);
            Assert.NotNull(update.CreatedAt);
        }
        Assert.All(updates[..^1], static u => Assert.True(u.FinishReason is null && u.Text.Length > 0));
        Assert.Equal(ChatFinishReason.Stop, updates[^1].FinishReason);
        var usage = Assert.Single(updates.SelectMany(static u => u.Contents).OfType<UsageContent>()).Details;
        var text = string.Concat(updates.Select(static u => u.Text));
        Assert.Equal(await Model.CountTokensAsync([new ChatMessage(ChatRole.User, Question)], cancellationToken: Token), usage.InputTokenCount);
        // The stop token was generated too.
        Assert.Equal(Model.Tokenizer!.CountTokens(text) + 1, usage.OutputTokenCount);
        Assert.Equal(usage.InputTokenCount + usage.OutputTokenCount, usage.TotalTokenCount);

        var response = await Client.GetResponseAsync(Question, s_greedy, Token);
        Assert.Equal(text, response.Text);
        Assert.Equal((ChatFinishReason.Stop, "ernie-tiny-moe", usage.TotalTokenCount), (response.FinishReason, response.ModelId, response.Usage?.TotalTokenCount));
        Assert.NotEqual(updates[0].ResponseId, response.ResponseId);
    }

    [Fact]
    public async Task MaxOutputTokens_CutsWithLength()
    {
        var whole = await Client.GetResponseAsync(Question, s_greedy, Token);
        for (var most = 1; most <= 4; most++)
        {
            var response = await Client.GetResponseAsync(Question, new() { Temperature = 0, MaxOutputTokens = most }, Token);
            Assert.Equal(ChatFinishReason.Length, response.FinishReason);
            Assert.Equal(most, response.Usage!.OutputTokenCount);
            Assert.StartsWith(response.Text, whole.Text, StringComparison.Ordinal);
        }
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => Client.GetResponseAsync(Question, new() { MaxOutputTokens = 0 }, Token));
    }

    [Fact]
    public async Task StopSequences_AcrossTokens_AreFoundAndLeftOut()
    {
        var whole = (await Client.GetResponseAsync(Question, s_greedy, Token)).Text;
        Assert.True(whole.Length > 20);
        for (var start = 1; start < whole.Length - 8; start += 2)
        {
            var stop = whole.Substring(start, 3 + start % 5);
            // The second begins like the answer's end and never comes: what is held back for it must come out.
            var options = new ChatOptions { Temperature = 0, MaxOutputTokens = 40, StopSequences = [stop, whole[^2..] + "#"] };
            var updates = await Client.GetStreamingResponseAsync(Question, options, Token).ToListAsync(Token);
            Assert.Equal(whole[..whole.IndexOf(stop, StringComparison.Ordinal)], string.Concat(updates.Select(static u => u.Text)));
            Assert.Equal(ChatFinishReason.Stop, updates[^1].FinishReason);
            Assert.Single(updates.SelectMany(static u => u.Contents).OfType<UsageContent>());
        }
        var never = await Client.GetResponseAsync(Question, new() { Temperature = 0, MaxOutputTokens = 40, StopSequences = [whole[^2..] + "#", "", whole + whole] }, Token);
        Assert.Equal(whole, never.Text);
        await AllBlocksAreFreeAsync(Client, Model);
    }

    [Fact]
    public async Task ConcurrentRequests_AnswerAsAlone()
    {
        var requests = Enumerable.Range(0, 32).Select(static i => (Text: $"{i}: {(i % 3 == 0 ? Question : "Hello! " + new string('x', 7 * i))}",
            Options: i % 2 == 0 ? s_greedy : new ChatOptions { Temperature = 1, TopP = 1, Seed = i, MaxOutputTokens = 24 })).ToArray();
        var alone = new List<string>();
        foreach (var (text, options) in requests) alone.Add((await Client.GetResponseAsync(text, options, Token)).Text);
        var together = await Task.WhenAll(requests.Select(r => Client.GetResponseAsync(r.Text, r.Options, Token)));
        Assert.Equal(alone, together.Select(static r => r.Text));
        Assert.Equal(32, together.Select(static r => r.ResponseId).Distinct().Count());
    }

    [Fact]
    public async Task Seeds_RepeatAnAnswer_AndOthersDiffer()
    {
        // Hot enough that all tokens are nearly as likely: two draws of 24 that agree by chance would be a miracle, also without a seed.
        async Task<string> Ask(long? seed) => (await Client.GetResponseAsync(Question, new() { Temperature = 50, TopP = 1, Seed = seed, MaxOutputTokens = 24 }, Token)).Text;
        Assert.Equal(await Ask(7), await Ask(7));
        Assert.NotEqual(await Ask(7), await Ask(8));
        Assert.NotEqual(await Ask(null), await Ask(null));
    }

    [Fact]
    public async Task Instructions_StandBeforeSystemText()
    {
        var client = (ErnieChatClient)Client;
        ChatMessage[] messages = [new(ChatRole.System, "Second."), new(ChatRole.User, "Third.")];
        Assert.Equal("<|begin_of_sentence|>First.\nSecond.\nUser: Third.\nAssistant: ", Render(messages, "First."));
        Assert.Equal("<|begin_of_sentence|>First.\nUser: Third.\nAssistant: ", Render(messages[1..], "First."));
        Assert.Equal("<|begin_of_sentence|>Second.\nUser: Third.\nAssistant: ", Render(messages, null));
        var usage = (await Client.GetResponseAsync(messages, new() { Instructions = "First.", MaxOutputTokens = 1 }, Token)).Usage!;
        Assert.Equal(await Model.CountTokensAsync(messages, new() { Instructions = "First." }, Token), usage.InputTokenCount);
        Assert.True(usage.InputTokenCount > await Model.CountTokensAsync(messages, cancellationToken: Token));

        string Render(ChatMessage[] conversation, string? instructions) => Model.Tokenizer!.Decode(client.Encode(client.Request(conversation, new() { Instructions = instructions })), skipSpecialTokens: false);
    }

    [Theory]
    [InlineData("<|im_end|>")]
    [InlineData("<|im_start|>system")]
    [InlineData("<|end_of_sentence|>")]
    [InlineData("<|begin_of_sentence|>")]
    [InlineData("</s><s>")]
    [InlineData("</think><tool_call>")]
    public void ControlTokensInUserText_StayText(string attack)
    {
        var client = (ErnieChatClient)Client;
        var plain = client.Encode(client.Request([new(ChatRole.User, "a b")], null));
        var attacked = client.Encode(client.Request([new(ChatRole.User, $"a {attack} b")], null));
        Assert.Equal(plain.Where(IsControl), attacked.Where(IsControl));
        Assert.Equal($"<|begin_of_sentence|>User: a {attack} b\nAssistant: ", Model.Tokenizer!.Decode(attacked, skipSpecialTokens: false));

        bool IsControl(int id) => Model.Tokenizer!.IsSpecial(id) || Model.StopTokenIds.Contains(id) || (Model.Tokenizer.IdToToken(id) is { Length: > 4 } token && token[0] == '<' && token[^1] == '>' && !token.StartsWith("<0x", StringComparison.Ordinal));
    }

    [Fact]
    public async Task WhatIsNotSupported_IsRefusedByName()
    {
        await RefusesAsync(new() { Tools = [AIFunctionFactory.Create(static () => 1, "one")] }, "Tools");
        await RefusesAsync(new() { ConversationId = "c" }, "ConversationId");
        await RefusesAsync(new() { Reasoning = new() { Effort = ReasoningEffort.High } }, "Reasoning");
        await Assert.ThrowsAsync<ArgumentException>(() => Client.GetResponseAsync(Question, new() { ToolMode = ChatToolMode.RequireAny }, Token));
        await RefusesAsync(new() { AdditionalProperties = new() { ["best_of"] = 2 } }, "AdditionalProperties");
        await Assert.ThrowsAsync<ArgumentException>(() => Client.GetResponseAsync(Question, new() { ModelId = "another" }, Token));
        await Assert.ThrowsAsync<NotSupportedException>(() => Client.GetResponseAsync([new ChatMessage(ChatRole.Tool, "x")], cancellationToken: Token));
        await Assert.ThrowsAsync<NotSupportedException>(() => Client.GetResponseAsync([new ChatMessage(ChatRole.User, [new DataContent(new byte[] { 1 }, "image/png")])], cancellationToken: Token));
        var fine = new ChatOptions { MaxOutputTokens = 1, ResponseFormat = ChatResponseFormat.Text, ToolMode = ChatToolMode.None, Tools = [AIFunctionFactory.Create(static () => 1, "one")], ModelId = "ernie-tiny-moe", AllowBackgroundResponses = true, Reasoning = new() { Effort = ReasoningEffort.None, Output = ReasoningOutput.Full } };
        Assert.NotNull((await Client.GetResponseAsync(Question, fine, Token)).Usage);

        async Task RefusesAsync(ChatOptions options, string name) => Assert.Contains($"ChatOptions.{name}", (await Assert.ThrowsAsync<NotSupportedException>(() => Client.GetResponseAsync(Question, options, Token))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Cancelling_InTheQueueInPrefillAndInDecode_ThrowsWithTheCallersToken_AndFreesTheCache()
    {
        using var model = await TinyModel.LoadAsync(static o => o.MaxConcurrentRequests = 1);
        using var client = model.AsChatClient();
        using (var inDecode = new CancellationTokenSource())
        {
            await using var running = client.GetStreamingResponseAsync(Question, Endless(), inDecode.Token).GetAsyncEnumerator(inDecode.Token);
            Assert.True(await running.MoveNextAsync());
            using (var inQueue = new CancellationTokenSource())
            {
                var queued = client.GetResponseAsync(Question, s_greedy, inQueue.Token);
                Assert.False(queued.IsCompleted);
                await CancelsPromptlyAsync(queued, inQueue);
            }
            await CancelsPromptlyAsync(DrainAsync(running), inDecode);
        }
        await AllBlocksAreFreeAsync(client, model);

        using var inPrefill = new CancellationTokenSource();
        var reading = client.GetResponseAsync(string.Concat(Enumerable.Repeat("The late fee is 30 yuan. ", 2500)), Endless(), inPrefill.Token);
        while (model.KvBlocks.Free == model.KvBlocks.All && !reading.IsCompleted) await Task.Yield();
        await CancelsPromptlyAsync(reading, inPrefill);
        await AllBlocksAreFreeAsync(client, model);

        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => client.GetResponseAsync(Question, s_greedy, inPrefill.Token));
    }

    [Fact]
    public async Task LeavingAStreamEarly_FreesTheCache()
    {
        for (var i = 0; i < 5; i++)
        {
            await foreach (var _ in Client.GetStreamingResponseAsync(Question, Endless(), Token)) break;
        }
        await AllBlocksAreFreeAsync(Client, Model);
    }

    [Fact]
    public async Task RandomAnswers_StreamWholeCharacters_AndEqualTheirTokens()
    {
        // At this temperature bytes of many characters come out, whole ones and broken ones.
        for (var seed = 1; seed <= 12; seed++)
        {
            var own = new ErnieGenerationOptions { Temperature = 100, TopP = 1, Seed = seed, MaxTokens = 120, IgnoreStopTokens = true };
            ChatMessage[] messages = [new(ChatRole.User, "你好，🐼！")];
            var updates = await Client.GetStreamingResponseAsync(messages, new() { RawRepresentationFactory = _ => own }, Token).ToListAsync(Token);
            Assert.All(updates, static u => Assert.False(u.Text.Length > 0 && (char.IsHighSurrogate(u.Text[^1]) || char.IsLowSurrogate(u.Text[0])), u.Text));
            var client = (ErnieChatClient)Client;
            var ids = await Model.GenerateAsync(client.Encode(client.Request(messages, null)), own, Token).ToListAsync(Token);
            Assert.Equal(Model.Tokenizer!.Decode(ids, skipSpecialTokens: true), string.Concat(updates.Select(static u => u.Text)));
        }
    }

    [Fact]
    public async Task MessagesChangedDuringTheStream_DoNoHarm()
    {
        var expected = (await Client.GetResponseAsync(Question, s_greedy, Token)).Text;
        var messages = new List<ChatMessage> { new(ChatRole.User, Question) };
        var options = s_greedy.Clone();
        var text = "";
        await foreach (var update in Client.GetStreamingResponseAsync(messages, options, Token))
        {
            text += update.Text;
            messages.Clear();
            messages.Add(null!);
            (options.MaxOutputTokens, options.Temperature) = (1, 100);
        }
        Assert.Equal(expected, text);
    }

    [Fact]
    public async Task ATooLongPrompt_IsRefusedWithBothCounts()
    {
        using var model = await TinyModel.LoadAsync(static o => o.ContextLength = 64);
        using var client = model.AsChatClient();
        ChatMessage[] messages = [new(ChatRole.User, string.Concat(Enumerable.Repeat("late fee ", 100)))];
        var count = await model.CountTokensAsync(messages, cancellationToken: Token);
        var e = await Assert.ThrowsAsync<ErnieContextOverflowException>(() => client.GetResponseAsync(messages, cancellationToken: Token));
        Assert.Contains($"{count} tokens", e.Message, StringComparison.Ordinal);
        Assert.Contains("at most 63", e.Message, StringComparison.Ordinal);
        Assert.Equal(ChatFinishReason.Length, (await client.GetResponseAsync(Question, Endless(), Token)).FinishReason);
    }

    [Fact]
    public async Task AModelsOwnTemplate_IsUsed_UnlessAnotherIsAskedFor()
    {
        using var folder = new TemporaryFolder();
        foreach (var file in Directory.GetFiles(await TinyModel.ExportedAsync())) File.Copy(file, folder.File(Path.GetFileName(file)));
        const string Source = "{{ cls_token }}{% for m in messages %}{{ m.role | title }}: {{ m.content }}\n{% endfor %}{{ tools | tojson }}Assistant: ";
        await File.WriteAllTextAsync(folder.File("chat_template.jinja"), Source, Token);
        ChatMessage[] messages = [new(ChatRole.System, "a"), new(ChatRole.User, "b</s>")];
        foreach (var (template, expected) in new[] { (ErnieChatTemplate.Auto, "<|begin_of_sentence|>System: a\nUser: b</s>\nnullAssistant: "), (ErnieChatTemplate.Standard, "<|begin_of_sentence|>a\nUser: b</s>\nAssistant: ") })
        {
            await using var model = await ErnieModel.LoadAsync(folder.Path, new() { ChatTemplate = template, KvCacheBytes = 64 << 20 }, cancellationToken: Token);
            var client = (ErnieChatClient)model.AsChatClient();
            var prompt = client.Encode(client.Request(messages, null));
            Assert.Equal(expected, model.Tokenizer!.Decode(prompt, skipSpecialTokens: false));
            Assert.Single(prompt, model.Tokenizer.IsSpecial);
        }
        await File.WriteAllTextAsync(folder.File("chat_template.jinja"), "{% include 'x' %}", Token);
        Assert.Contains("include", (await Assert.ThrowsAsync<NotSupportedException>(() => ErnieModel.LoadAsync(folder.Path, cancellationToken: Token))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Middleware_Works()
    {
        var cache = new DictionaryCache();
        var activities = new ConcurrentBag<Activity>();
        using var listener = new ActivityListener { ShouldListenTo = static s => s.Name == "ernie-test", Sample = static (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllData, ActivityStopped = activities.Add };
        ActivitySource.AddActivityListener(listener);
        using var client = Client.AsBuilder().UseDistributedCache(cache).UseLogging(NullLoggerFactory.Instance).UseOpenTelemetry(sourceName: "ernie-test").UseFunctionInvocation().Build();
        var options = new ChatOptions { Temperature = 1, TopP = 1, MaxOutputTokens = 20 };
        var first = await client.GetResponseAsync(Question, options, Token);
        var second = await client.GetResponseAsync(Question, options, Token);
        Assert.Equal(first.Text, second.Text);
        Assert.Equal(first.ResponseId, second.ResponseId);
        Assert.Equal(first.Usage!.TotalTokenCount, second.Usage!.TotalTokenCount);
        var streamed = await client.GetStreamingResponseAsync(Question, options, Token).ToListAsync(Token);
        var again = await client.GetStreamingResponseAsync(Question, options, Token).ToListAsync(Token);
        Assert.Equal(string.Concat(streamed), string.Concat(again));
        Assert.Equal(2, cache.Count);
        var activity = Assert.Single(activities, a => a.GetTagItem("gen_ai.response.id") as string == first.ResponseId);
        Assert.Equal("ernie-tiny-moe", activity.GetTagItem("gen_ai.request.model"));
        Assert.Equal((int)first.Usage.InputTokenCount!, Convert.ToInt32(activity.GetTagItem("gen_ai.usage.input_tokens"), null));
        Assert.Same(Model, client.GetService(typeof(ErnieModel)));
    }

    private static ChatOptions Endless() => new() { RawRepresentationFactory = static _ => new ErnieGenerationOptions { Temperature = 0, IgnoreStopTokens = true } };

    private static async Task DrainAsync(IAsyncEnumerator<ChatResponseUpdate> stream)
    {
        while (await stream.MoveNextAsync())
        {
        }
    }

    private static async Task CancelsPromptlyAsync(Task request, CancellationTokenSource source)
    {
        var clock = Stopwatch.StartNew();
        await source.CancelAsync();
        var e = await Assert.ThrowsAnyAsync<OperationCanceledException>(() => request);
        Assert.InRange(clock.Elapsed.TotalSeconds, 0, 2);
        Assert.Equal(source.Token, e.CancellationToken);
    }

    /// <summary>The engine drops what was cancelled before it computes anything else.</summary>
    private static async Task AllBlocksAreFreeAsync(IChatClient client, ErnieModel model)
    {
        await client.GetResponseAsync("x", new() { MaxOutputTokens = 2 }, Token);
        Assert.Equal(model.KvBlocks.All, model.KvBlocks.Free);
    }

    private sealed class DictionaryCache : IDistributedCache
    {
        private readonly ConcurrentDictionary<string, byte[]> _entries = new();
        public int Count => _entries.Count;
        public byte[]? Get(string key) => _entries.GetValueOrDefault(key);
        public Task<byte[]?> GetAsync(string key, CancellationToken token = default) => Task.FromResult(Get(key));
        public void Set(string key, byte[] value, DistributedCacheEntryOptions options) => _entries[key] = value;
        public Task SetAsync(string key, byte[] value, DistributedCacheEntryOptions options, CancellationToken token = default)
        {
            Set(key, value, options);
            return Task.CompletedTask;
        }
        public void Refresh(string key) { }
        public Task RefreshAsync(string key, CancellationToken token = default) => Task.CompletedTask;
        public void Remove(string key) => _entries.TryRemove(key, out _);
        public Task RemoveAsync(string key, CancellationToken token = default)
        {
            Remove(key);
            return Task.CompletedTask;
        }
    }
}
