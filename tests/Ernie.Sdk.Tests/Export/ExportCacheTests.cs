using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Export;

/// <summary>The cache of exports for checkpoints that are loaded directly.</summary>
public sealed class ExportCacheTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("ernie.json", true)]
    [InlineData("model.weights", false)]
    [InlineData("model.onnx", true)]
    public async Task ADamagedEntry_IsMadeAgain(string file, bool delete)
    {
        using var cache = new TemporaryFolder();
        var options = new ErnieModelOptions { CacheDirectory = cache.Path, Export = ExportAs.BFloat16 };
        string entry;
        using (var model = await ErnieModel.LoadAsync(TinyModel.Checkpoint, options, cancellationToken: Token)) entry = model.Path;
        var path = Path.Combine(entry, file);
        if (delete) File.Delete(path);
        else File.WriteAllBytes(path, new byte[1000]);
        using var again = await ErnieModel.LoadAsync(TinyModel.Checkpoint, options, cancellationToken: Token);
        Assert.Equal(entry, again.Path);
        await ErnieExporter.VerifyAsync(entry, cancellationToken: Token);
    }

    [Fact]
    public async Task WhateverChangesTheModel_HasAnEntryOfItsOwn()
    {
        using var folder = new TemporaryFolder();
        new TinyCheckpoint { Hidden = 128, Experts = 4, ExpertIntermediate = 128, Layers = 3, Vocabulary = 101 }.Write(folder.File("checkpoint"));
        using CalibrationIds first = new(101, seed: 1), second = new(101, seed: 2);
        ErnieExportOptions[] all =
        [
            ExportAs.BFloat16, new(), new() { GroupSize = 32 }, new() { CalibrationFile = first.Path }, new() { CalibrationFile = second.Path },
            new() { Experts = ErniePrecision.Int2, CalibrationFile = first.Path }, new() { Experts = ErniePrecision.Int2, CalibrationFile = first.Path, Int4Layers = [1] },
            new() { Experts = ErniePrecision.Int2, CalibrationFile = first.Path, Int4Layers = [2] },
        ];
        var entries = new HashSet<string>();
        foreach (var options in all)
        {
            using var model = await ErnieModel.LoadAsync(folder.File("checkpoint"), new() { CacheDirectory = folder.File("cache"), KvCacheBytes = 4 << 20, Export = options }, cancellationToken: Token);
            Assert.True(entries.Add(model.Path), model.Path);
        }
        Assert.Equal(all.Length, Directory.GetDirectories(folder.File("cache")).Length);
    }

    [Fact]
    public async Task AFolderThatCannotBeMade_IsNamedWithTheCure()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder.File("file"), "");
        var e = await Assert.ThrowsAsync<IOException>(() => ErnieModel.LoadAsync(TinyModel.Checkpoint, new() { CacheDirectory = folder.File("file") }, cancellationToken: Token));
        Assert.Contains("CacheDirectory", e.Message, StringComparison.Ordinal);
        await Assert.ThrowsAsync<ArgumentException>(() => ErnieModel.LoadAsync(TinyModel.Checkpoint, new() { CacheDirectory = "" }, cancellationToken: Token));
    }

    [Fact]
    public async Task Prompts_AreCopied_AndSenselessChatOptionsRefused()
    {
        using var model = await TinyModel.LoadAsync();
        List<int> prompt = [13, 336, 1446];
        var tokens = model.GenerateAsync(prompt, new() { Temperature = 0, MaxTokens = 4 }, Token);
        var wanted = await model.GenerateAsync([13, 336, 1446], new() { Temperature = 0, MaxTokens = 4 }, Token).ToListAsync(Token);
        prompt[0] = 1_000_000_000;
        Assert.Equal(wanted, await tokens.ToListAsync(Token));

        using var client = model.AsChatClient();
        ChatOptions[] senseless = [new() { StopSequences = [null!] }, .. new object[] { "1,1", true, "x" }.Select(static v => new ChatOptions { AdditionalProperties = new() { ["repetition_penalty"] = v } })];
        foreach (var options in senseless) await Assert.ThrowsAsync<ArgumentException>(() => client.GetResponseAsync("Who are you?", options, Token));
    }
}
