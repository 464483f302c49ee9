using Ernie.Cli;
using Microsoft.Extensions.Time.Testing;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>The cache of exports as its user sees it: told when it grows, listed, cleared.</summary>
public sealed class CacheCommandTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private string Cache => _folder.File("cache");

    [Fact]
    public async Task Exports_AreTold_Listed_AndCleared()
    {
        new TinyCheckpoint { Experts = 4 }.Write(_folder.File("checkpoint"));
        string[] generate = ["generate", _folder.File("checkpoint"), "--cache", Cache, "--max-tokens", "1"];
        var first = (await CommandRun.Async("{\"ids\":[5]}", generate)).Succeeded();
        Assert.Matches($"^ernie: exporting {_folder.File("checkpoint")} into {Cache}/checkpoint-[0-9a-f]{{16}}, because no export", first.Error);
        Assert.Empty((await CommandRun.Async("{\"ids\":[5]}", generate)).Succeeded().Error);

        // Neither is what another program put there.
        Directory.CreateDirectory(Path.Combine(Cache, "precious-folder"));
        Directory.CreateDirectory(Path.Combine(Cache, "killed-0123456789abcdef.exporting"));
        var list = (await CommandRun.Async("cache", "--cache", Cache)).Succeeded();
        Assert.StartsWith($"{Cache}: 2 exports, ", list.Out, StringComparison.Ordinal);
        Assert.Contains($"of {_folder.File("checkpoint")}", list.Out, StringComparison.Ordinal);
        Assert.Contains("killed-0123456789abcdef.exporting  not finished", list.Out, StringComparison.Ordinal);
        Assert.Contains("2 exports of ", (await CommandRun.Async("doctor", "--cache", Cache)).Succeeded().Out, StringComparison.Ordinal);

        Assert.EndsWith("0 exports removed, 0.0 KiB.\n", (await CommandRun.Async("cache", "clear", "--cache", Cache, "--older-than", "1")).Succeeded().Out, StringComparison.Ordinal);
        var use = Directory.GetFiles(Cache, ".checkpoint", SearchOption.AllDirectories).Single();
        File.SetLastWriteTimeUtc(use, DateTime.UtcNow.AddDays(-2));
        Assert.Contains("1 export removed", (await CommandRun.Async("cache", "clear", "--cache", Cache, "--older-than", "1")).Succeeded().Out, StringComparison.Ordinal);
        Assert.Contains("1 export removed", (await CommandRun.Async("cache", "clear", "--cache", Cache)).Succeeded().Out, StringComparison.Ordinal);
        Assert.Equal([Path.Combine(Cache, "precious-folder")], Directory.GetFileSystemEntries(Cache));
    }

    [Fact]
    public async Task WhatAnExportIsWriting_IsKept()
    {
        var partial = Path.Combine(Cache, "busy-0123456789abcdef.exporting");
        Directory.CreateDirectory(partial);
        await using var running = new FileStream(partial + ".lock", FileMode.Create, FileAccess.ReadWrite, FileShare.None);
        var run = await CommandRun.Async("cache", "clear", "--cache", Cache);
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("is kept", run.Error, StringComparison.Ordinal);
        Assert.True(Directory.Exists(partial));
    }

    [Fact]
    public void ProgressWithoutATerminal_GoesOnWhileNothingIsReported()
    {
        using var error = new StringWriter { NewLine = "\n" };
        var clock = new FakeTimeProvider();
        using (var line = new ProgressLine(new CommandStreams(TextReader.Null, TextWriter.Null, error), "export", clock))
        {
            line.Report(new ErnieProgress("w", 1 << 20, 4 << 20, TimeSpan.FromSeconds(1)));
            Assert.Empty(error.ToString());
            for (var second = 0; second < 35; second++) clock.Advance(TimeSpan.FromSeconds(1));
            Assert.Equal(3, error.ToString().Split('\n', StringSplitOptions.RemoveEmptyEntries).Length);
            Assert.StartsWith("export: 25 %  1.0 MiB of 4.0 MiB", error.ToString(), StringComparison.Ordinal);
            line.Clear();
            clock.Advance(TimeSpan.FromMinutes(1));
        }
        Assert.Equal(3, error.ToString().Split('\n', StringSplitOptions.RemoveEmptyEntries).Length);
    }
}
