using Ernie.Sdk.Export;
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
    public async Task ACopy_WhateverItsNameAndTimes_FindsTheExportOfTheFirst_AndKeepsItsOwnName()
    {
        using var folder = new TemporaryFolder();
        new TinyCheckpoint { Experts = 4 }.Write(folder.File("first"));
        var notices = new List<string>();
        Assert.Equal("first", await LoadAsync("first"));
        Assert.Single(notices);
        Assert.Matches("^exporting .*first into .*first-[0-9a-f]{16}, because no export", notices[0]);

        Directory.CreateDirectory(folder.File("second"));
        foreach (var file in Directory.GetFiles(folder.File("first"))) File.Copy(file, Path.Combine(folder.File("second"), Path.GetFileName(file)));
        foreach (var file in Directory.GetFiles(folder.File("second"))) File.SetLastWriteTimeUtc(file, DateTime.UnixEpoch);
        await File.WriteAllTextAsync(folder.File("second/README.md"), "Another text.", Token);
        Assert.Equal("second", await LoadAsync("second"));
        Assert.Single(notices);
        Assert.Equal(folder.File("second"), Assert.Single(CachedExport.All(folder.File("cache"))).Checkpoint);

        var config = Path.Combine(folder.File("second"), "config.json");
        await File.WriteAllTextAsync(config, await File.ReadAllTextAsync(config, Token) + " ", Token);
        await LoadAsync("second");
        Assert.Equal(2, notices.Count);
        Assert.Equal(2, CachedExport.All(folder.File("cache")).Count);

        async Task<string> LoadAsync(string name)
        {
            using var model = await ErnieModel.LoadAsync(folder.File(name), new() { CacheDirectory = folder.File("cache"), KvCacheBytes = 4 << 20, Export = ExportAs.BFloat16, ExportNotice = notices.Add }, cancellationToken: Token);
            return model.ModelId;
        }
    }

    [Fact]
    public void ContentOfLargeFiles_IsToldBySamplesOfEveryTensor()
    {
        using var folder = new TemporaryFolder();
        // One tensor of 32 MB, and 40 small ones that lie between two of the pieces that are spread evenly.
        const int Large = 32 << 20, Small = 8 << 10;
        var entries = new List<string> { $$""" "large":{"dtype":"BF16","shape":[{{Large / 2}}],"data_offsets":[0,{{Large}}]}""" };
        for (var i = 0; i < 40; i++) entries.Add($$""" "small{{i}}":{"dtype":"BF16","shape":[{{Small / 2}}],"data_offsets":[{{Large + i * Small}},{{Large + (i + 1) * Small}}]}""");
        var header = System.Text.Encoding.UTF8.GetBytes("{" + string.Join(',', entries) + "}");
        var path = folder.File("model.safetensors");
        using (var file = File.Create(path))
        {
            file.Write(BitConverter.GetBytes((long)header.Length));
            file.Write(header);
            file.SetLength(8 + header.Length + Large + 40 * Small);
        }
        var names = new HashSet<string> { CheckpointContent.OfFolder(folder.Path) };
        File.SetLastWriteTimeUtc(path, DateTime.UnixEpoch);
        Assert.False(names.Add(CheckpointContent.OfFolder(folder.Path)));
        for (var i = 0; i < 40; i++)
        {
            using (var file = File.OpenWrite(path))
            {
                file.Position = 8 + header.Length + Large + i * Small;
                file.Write(Enumerable.Repeat((byte)(i + 1), Small).ToArray());
            }
            Assert.True(names.Add(CheckpointContent.OfFolder(folder.Path)), $"tensor {i}");
        }
        using (var file = File.OpenWrite(path)) file.SetLength(file.Length + 1);
        Assert.True(names.Add(CheckpointContent.OfFolder(folder.Path)));
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
