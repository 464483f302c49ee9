using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>What is wrong is named as the caller wrote it, with its limit or a cure.</summary>
public sealed class WrongOptionTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task ABudgetOfNoTokens_IsNamedAsItWasSet()
    {
        await using var model = await TinyModel.LoadAsync();
        var client = model.AsChatClient();
        Assert.StartsWith("ChatOptions.MaxOutputTokens must be at least 1", (await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => client.GetResponseAsync("x", new() { MaxOutputTokens = 0 }, Token))).Message, StringComparison.Ordinal);
        var options = new ErnieGenerationOptions { MaxTokens = 0 };
        Assert.StartsWith("ErnieGenerationOptions.MaxTokens must be at least 1", (await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => client.GetResponseAsync("x", new() { RawRepresentationFactory = _ => options }, Token))).Message, StringComparison.Ordinal);
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => model.GenerateAsync([1], options, Token).ToListAsync(Token).AsTask());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task ALongerContextThanTheModels_IsRefused_BeforeAnythingIsExported(bool isCheckpoint)
    {
        using var cache = new TemporaryFolder();
        var path = isCheckpoint ? TinyModel.Checkpoint : await TinyModel.ExportedAsync();
        var e = await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => ErnieModel.LoadAsync(path, new ErnieModelOptions { ContextLength = 1_000_000, CacheDirectory = cache.Path }, cancellationToken: Token));
        Assert.Contains("at most 131072", e.Message, StringComparison.Ordinal);
        Assert.Empty(Directory.EnumerateFileSystemEntries(cache.Path));
        await using var model = await TinyModel.LoadAsync(static options => (options.ContextLength, options.KvCacheBytes) = (131_072, null));
        Assert.Equal(131_072, model.ContextLength);
    }

    [Theory]
    [InlineData("baidu/ERNIE-4.5-0.3B-PT", true)]
    [InlineData("../no/such", false)]
    [InlineData("/no/such", false)]
    [InlineData("such", false)]
    public async Task AFolderThatMayBeARepository_IsToBePulled(string path, bool isPulled)
    {
        var e = await Assert.ThrowsAsync<DirectoryNotFoundException>(() => ErnieModel.LoadAsync(path, cancellationToken: Token));
        Assert.Equal(isPulled, e.Message.Contains($"`ernie pull {path} FOLDER`", StringComparison.Ordinal));
    }

    [Fact]
    public async Task ToolsAndReasoning_WithoutAPlaceInTheTemplate_NameTheOneThatHasIt()
    {
        await using var model = await TinyModel.LoadAsync(static options => options.ChatTemplate = ErnieChatTemplate.Standard);
        var client = model.AsChatClient();
        ChatOptions[] wrong = [new() { Tools = [AIFunctionFactory.Create(static () => 1, "one")] }, new() { Reasoning = new() { Effort = ReasoningEffort.Low } }];
        foreach (var options in wrong)
        {
            var e = await Assert.ThrowsAsync<NotSupportedException>(() => client.GetResponseAsync("x", options, Token));
            Assert.Contains("ErnieModelOptions.ChatTemplate to ErnieChatTemplate.Thinking", e.Message, StringComparison.Ordinal);
            await using var thinking = await TinyModel.LoadAsync(static options => options.ChatTemplate = ErnieChatTemplate.Thinking);
            options.MaxOutputTokens = 8;
            Assert.NotEmpty((await thinking.AsChatClient().GetResponseAsync("x", options, Token)).Messages);
        }
    }
}
