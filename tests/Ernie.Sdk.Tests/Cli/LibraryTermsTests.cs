using System.Globalization;
using System.Text.RegularExpressions;
using Ernie.Cli;
using Ernie.Sdk.Export;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>Failures of the library as who typed a command reads them: in options of commands, with values that can be typed.</summary>
[Collection(FakeCuda.Collection)]
public sealed partial class LibraryTermsTests : IDisposable
{
    private const string SmallerCache = "set --kv int8, for chat and serve a shorter --context, for serve fewer --max-requests";
    private readonly EmulatedGpu _gpu = new();
    private readonly TemporaryFolder _folder = new();

    public void Dispose()
    {
        _gpu.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public async Task ALimitThatIsTooLow_NamesOneThatCanBePasted()
    {
        var command = await GenerateAsync("cuda");
        var error = await Fails([.. command, "--gpu-memory", "1MB"]);
        Assert.Contains("of which --gpu-memory allows 1,000,000;", error, StringComparison.Ordinal);
        Assert.Contains($"or more. Export to fewer bits, {SmallerCache}, or use another GPU", error, StringComparison.Ordinal);
        var size = PastedSize().Match(error).Groups[1].Value;
        // As it is typed, and no byte less.
        (await CommandRun.Async(_gpu.Installation, [.. command, "--gpu-memory", size])).Succeeded();
        var least = Size.Parse(size);
        Assert.Contains(size, await Fails([.. command, "--gpu-memory", string.Create(CultureInfo.InvariantCulture, $"{least - 1}B")]), StringComparison.Ordinal);
        // The library's own message is in its own terms.
        var e = await Assert.ThrowsAsync<ErnieDeviceException>(async () => await ErnieModel.LoadAsync(command[1], new ErnieModelOptions { Device = ErnieDevice.Cuda, Installation = _gpu.Installation, GpuMemoryBytes = 1 }, cancellationToken: TestContext.Current.CancellationToken));
        Assert.Matches("Set GpuMemoryBytes to [0-9,]+ or more\\.", e.Message);
    }

    [Fact]
    public async Task WhereTheCpuIsTakenInstead_TheLogSaysTheSame()
    {
        var run = (await CommandRun.Async(_gpu.Installation, [.. await GenerateAsync("auto"), "--gpu-memory", "1MB", "--log-level", "information"])).Succeeded();
        Assert.Matches("info: Device: the CPU, because .* Set --gpu-memory [0-9]+B or more\\.", run.Error);
        Assert.DoesNotMatch(LibrarysNames(), run.Error);
    }

    [Theory]
    [InlineData("cuMemAlloc_v2", 1, "has no room for the")] // while loading
    [InlineData("cudaMalloc", 9, "has no memory left for this step. Set --kv int8, for chat and serve a shorter --context")]
    public async Task MemoryThatRunsOut_IsAnsweredWithOptions(string call, int nth, string expected)
    {
        _gpu.Driver.Fail(call, CudaResult.OutOfMemory, nth);
        var error = await Fails([.. await GenerateAsync("cuda"), "--gpu-memory", "1GiB"]);
        Assert.Contains(expected, error, StringComparison.Ordinal);
        if (call == "cudaMalloc") Assert.Contains("or a larger --gpu-memory.", error, StringComparison.Ordinal);
        else Assert.Contains($"Export to fewer bits, {SmallerCache}, or use another GPU", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task AContextThatIsTooLong_NamesTheLongest()
    {
        string[] command = ["chat", await TinyModel.ExportedAsync(), "--context"];
        var error = await Fails([.. command, "99999999"]);
        var most = PastedContext().Match(error).Groups[1].Value;
        (await CommandRun.Async("", [.. command, most])).Succeeded();
    }

    [Fact]
    public async Task APromptThatIsTooLong_NamesWhatEveryCommandCanDo()
    {
        new TinyCheckpoint { Experts = 4 }.Write(_folder.File("checkpoint"));
        await ErnieExporter.ExportAsync(_folder.File("checkpoint"), _folder.File("model"), ExportAs.BFloat16, cancellationToken: TestContext.Current.CancellationToken);
        var context = ModelManifest.Read(_folder.File("model")).Config.ContextLength;
        var run = await CommandRun.Async($$"""{"ids":[{{string.Join(',', Enumerable.Repeat(5, context))}}]}""", ["generate", _folder.File("model"), "--max-tokens", "2"]);
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains($"The prompt has {context} tokens; with a context of {context} it may have at most {context - 1}. Shorten it, in a chat with /new, or start chat or serve with a longer --context; --kv int8", run.Error, StringComparison.Ordinal);
        Assert.DoesNotMatch(LibrarysNames(), run.Error);
    }

    [Fact]
    public async Task WhatOnlyTheCpuHas_NamesTheOption()
    {
        var error = await Fails([.. await GenerateAsync("cuda"), "--expert-prefetch", "on"]);
        Assert.Contains("--expert-prefetch is on, but beside a GPU no weights are read ahead. Leave --expert-prefetch at auto.", error, StringComparison.Ordinal);
    }

    [Fact]
    public void ACacheWithoutAddresses_IsAnsweredWithOptions()
    {
        var e = Assert.Throws<InsufficientMemoryException>(() => new VirtualMemory(1L << 62).Dispose());
        var text = ErrorLine.Of(e);
        Assert.EndsWith(" bytes could be reserved for the KV cache. S" + SmallerCache[1..] + ".", text, StringComparison.Ordinal);
        Assert.DoesNotMatch(LibrarysNames(), text);
    }

    private async Task<string[]> GenerateAsync(string device)
    {
        await File.WriteAllTextAsync(_folder.File("in.jsonl"), """{"ids":[1,17,300]}""", TestContext.Current.CancellationToken);
        return ["generate", await TinyModel.ExportedAsync(), _folder.File("in.jsonl"), "--max-tokens", "2", "--device", device];
    }

    private async Task<string> Fails(params string[] command)
    {
        var run = await CommandRun.Async(_gpu.Installation, command);
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        var line = Assert.Single(run.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries), static line => line.StartsWith("ernie: ", StringComparison.Ordinal));
        Assert.DoesNotMatch(LibrarysNames(), line);
        return line;
    }

    [GeneratedRegex("Set --gpu-memory (\\S+) or more\\.")]
    private static partial Regex PastedSize();

    [GeneratedRegex("--context may be at most (\\d+):")]
    private static partial Regex PastedContext();

    /// <summary>Options of <see cref="ErnieModelOptions"/>.</summary>
    [GeneratedRegex("ErnieModelOptions|ErnieDevice|GpuMemoryBytes|KvCacheBytes|KvCacheType|ContextLength|MaxConcurrentRequests|PrefillChunkTokens|ExpertPrefetch")]
    private static partial Regex LibrarysNames();
}
