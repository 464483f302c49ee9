using System.Text.Json;
using Ernie.Cli;
using Ernie.Sdk.Export;
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
    public async Task ExportsThatThisVersionDoesNotLoad_AreMarked_AndRemovedAlone()
    {
        new TinyCheckpoint { Experts = 4 }.Write(_folder.File("checkpoint"));
        (await CommandRun.Async("{\"ids\":[5]}", ["generate", _folder.File("checkpoint"), "--cache", Cache, "--max-tokens", "1"])).Succeeded();
        var fine = Assert.Single(Directory.GetDirectories(Cache));
        // Manifests of other versions have other members than this one's must have.
        var old = Entry("old-0123456789abcdef", """{"formatVersion":3,"name":"old","weights":[1,2]}""");
        var newer = Entry("newer-0123456789abcdef", """{"formatVersion":99,"parts":{}}""");
        var damaged = Entry("damaged-0123456789abcdef", "{");
        await File.WriteAllBytesAsync(Path.Combine(old, ModelManifest.WeightFile), new byte[3 << 20], TestContext.Current.CancellationToken);

        var list = (await CommandRun.Async("cache", "--cache", Cache)).Succeeded();
        string Line(string folder) => Assert.Single(list.Lines, line => line.Contains($"  {Path.GetFileName(folder)}  ", StringComparison.Ordinal));
        Assert.EndsWith("of a checkpoint that is not known; not loaded any more: format 3", Line(old), StringComparison.Ordinal);
        Assert.EndsWith("; not loaded by this version: format 99", Line(newer), StringComparison.Ordinal);
        Assert.EndsWith("; damaged: it says no format", Line(damaged), StringComparison.Ordinal);
        Assert.EndsWith($"  of {_folder.File("checkpoint")}", Line(fine), StringComparison.Ordinal);
        var cure = $"1 export of 3.0 MiB has a format that this version, which reads format {ModelManifest.CurrentVersion}, does not load. Remove with: ernie cache clear --outdated --cache {Cache}";
        Assert.Equal(cure, list.Lines[^1]);
        Assert.Contains(cure, (await CommandRun.Async("doctor", "--cache", Cache)).Succeeded().Out, StringComparison.Ordinal);

        var lines = (await CommandRun.Async("cache", "--json", "--cache", Cache)).Succeeded().Lines;
        var entries = lines.Select(static line => JsonDocument.Parse(line).RootElement).ToDictionary(static e => e.GetProperty("folder").GetString()!, static e => e);
        Assert.Equal([("outdated", 3), ("newer", 99), ("fine", ModelManifest.CurrentVersion)], new[] { old, newer, fine }.Select(folder => (entries[folder].GetProperty("state").GetString()!, entries[folder].GetProperty("format").GetInt32())));
        Assert.Equal(("damaged", JsonValueKind.Null), (entries[damaged].GetProperty("state").GetString()!, entries[damaged].GetProperty("format").ValueKind));
        Assert.Equal((3 << 20) + new FileInfo(Path.Combine(old, ModelManifest.FileName)).Length, entries[old].GetProperty("bytes").GetInt64());
        Assert.Equal(_folder.File("checkpoint"), entries[fine].GetProperty("checkpoint").GetString());

        // The message can be pasted.
        var clear = (await CommandRun.Async(cure[(cure.LastIndexOf("ernie ", StringComparison.Ordinal) + 6)..].Split(' '))).Succeeded();
        Assert.Equal($"removed {old}\n1 export removed, 3.0 MiB.\n", clear.Out);
        Assert.Equal(new[] { damaged, fine, newer }.Order(StringComparer.Ordinal), Directory.GetDirectories(Cache).Order(StringComparer.Ordinal));
        Assert.DoesNotContain("--outdated", (await CommandRun.Async("cache", "--cache", Cache)).Succeeded().Out, StringComparison.Ordinal);

        // Whoever names such a folder is told of its format, not that it is damaged.
        var run = await CommandRun.Async("inspect", newer);
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains($"has format 99; this version of Ernie.Sdk reads {ModelManifest.CurrentVersion}", run.Error, StringComparison.Ordinal);

        string Entry(string name, string manifest)
        {
            var folder = Directory.CreateDirectory(Path.Combine(Cache, name)).FullName;
            File.WriteAllText(Path.Combine(folder, ModelManifest.FileName), manifest);
            return folder;
        }
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
