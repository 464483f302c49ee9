using System.Text.Json;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Caching.Distributed;
using Microsoft.Extensions.Caching.Memory;
using Microsoft.Extensions.Options;

namespace Ernie.Sdk.Tests.Interop;

/// <summary>Microsoft.Extensions.AI keeps answers of the shipped model in a distributed cache.</summary>
public sealed class DistributedCacheTests : IAsyncLifetime
{
    private const string Question = "What is the capital of Norway?";
    private readonly Tools _tools = new();
    private CountedModel _model = null!;
    private IChatClient _client = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        _model = await CountedModel.LoadAsync();
        _client = _model.Client.AsBuilder().UseFunctionInvocation().UseDistributedCache(new MemoryDistributedCache(Options.Create(new MemoryDistributedCacheOptions()))).Build();
    }

    public ValueTask DisposeAsync() => _model.DisposeAsync();

    [Fact]
    public async Task TheSameQuestion_IsComputedOnce()
    {
        // Drawn without a seed: computed again, it would hardly be the same.
        var options = new ChatOptions { Temperature = 50, TopP = 1, MaxOutputTokens = 30 };
        var first = await _client.GetResponseAsync(Question, options, Token);
        var computed = _model.Computed;
        var second = await _client.GetResponseAsync(Question, options, Token);
        Assert.Equal(computed, _model.Computed);
        Assert.Equal((first.ResponseId, first.ModelId, first.FinishReason, first.CreatedAt), (second.ResponseId, second.ModelId, second.FinishReason, second.CreatedAt));
        Assert.Equal(first.Messages.Single().Contents.Select(Describe), second.Messages.Single().Contents.Select(Describe));
        Assert.Equal((first.Usage!.InputTokenCount, first.Usage.OutputTokenCount, first.Usage.CachedInputTokenCount, first.Usage.ReasoningTokenCount),
            (second.Usage!.InputTokenCount, second.Usage.OutputTokenCount, second.Usage.CachedInputTokenCount, second.Usage.ReasoningTokenCount));

        options.MaxOutputTokens = 31;
        await _client.GetResponseAsync(Question, options, Token);
        Assert.True(_model.Computed > computed);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task TheSameStream_IsComputedOnce(bool coalesces)
    {
        var caching = _client.GetService<DistributedCachingChatClient>()!;
        caching.CoalesceStreamingUpdates = coalesces;
        var options = new ChatOptions { Temperature = 50, TopP = 1, MaxOutputTokens = 30 };
        var first = await _client.GetStreamingResponseAsync(Question, options, Token).ToListAsync(Token);
        var computed = _model.Computed;
        var second = await _client.GetStreamingResponseAsync(Question, options, Token).ToListAsync(Token);
        Assert.Equal(computed, _model.Computed);
        Assert.Equal(first.ToChatResponse().Messages.Single().Contents.Select(Describe), second.ToChatResponse().Messages.Single().Contents.Select(Describe));
        Assert.Equal(coalesces, second.Count < first.Count);
        Assert.All(second.Where(static u => u.Contents is not [UsageContent]), u => Assert.Equal((first[0].ResponseId, first[0].MessageId, first[0].ModelId), (u.ResponseId, u.MessageId, u.ModelId)));
        Assert.Single(second.SelectMany(static u => u.Contents).OfType<UsageContent>());
        Assert.Equal(first[^1].FinishReason, second.ToChatResponse().FinishReason);
    }

    [Fact]
    public async Task CallsComeFromTheCache_AndFunctionsRunAgain()
    {
        const string Weather = "How is the weather in Xentadal?";
        var first = await _client.GetResponseAsync(Weather, CountedModel.Greedy(_tools.Weather), Token);
        var computed = _model.Computed;
        var second = await _client.GetResponseAsync(Weather, CountedModel.Greedy(_tools.Weather), Token);
        Assert.Equal(computed, _model.Computed);
        Assert.Equal(["Xentadal", "Xentadal"], _tools.Calls);
        Assert.Contains("snowy", second.Text, StringComparison.Ordinal);
        Assert.Equal(first.Text, second.Text);
    }

    [Fact]
    public async Task ProbabilitiesOfTokens_AreCachedAsJson()
    {
        var options = CountedModel.Greedy();
        options.AdditionalProperties = new() { ["logprobs"] = true, ["top_logprobs"] = 2 };
        var first = (ErnieTokenLogProbability[])(await _client.GetResponseAsync(Question, options, Token)).AdditionalProperties!["logprobs"]!;
        var second = (JsonElement)(await _client.GetResponseAsync(Question, options, Token)).AdditionalProperties!["logprobs"]!;
        var read = second.Deserialize<ErnieTokenLogProbability[]>(AIJsonUtilities.DefaultOptions)!;
        Assert.Equal(first.Select(static p => (p.TokenId, p.Token, p.LogProbability)), read.Select(static p => (p.TokenId, p.Token, p.LogProbability)));
        Assert.All(read, static p => Assert.Equal(2, p.Top.Count));
    }

    private static string Describe(AIContent content) => content switch
    {
        TextContent text => text.Text,
        TextReasoningContent reasoning => $"({reasoning.Text})",
        _ => content.GetType().Name,
    };
}
