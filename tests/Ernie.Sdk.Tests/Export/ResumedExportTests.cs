using Ernie.Sdk.Export;

namespace Ernie.Sdk.Tests.Export;

/// <summary>Exports that go on where a killed one stopped.</summary>
public sealed class ResumedExportTests(ITestOutputHelper output)
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task AKilledExport_IsContinued_AndGivesTheSameBytes()
    {
        using var folder = new TemporaryFolder();
        var (target, journal) = (folder.File("out"), Path.Combine(folder.File("out.exporting"), ExportJournal.FileName));
        string[] command = ["exec", ChildProcess.Cli, "export", TinyModel.Checkpoint, target, "--experts", "int4", "--dense", "int8", "--group", "32"];
        // On a fast machine the export may end before it is killed.
        for (var attempt = 0; !Directory.Exists($"{target}.exporting"); attempt++)
        {
            Assert.True(attempt < 10, "The export was never killed in time.");
            if (Directory.Exists(target)) Directory.Delete(target, recursive: true);
            using var process = ChildProcess.Start("dotnet", command);
            while (!process.HasExited && Lines(journal) < 4) await Task.Delay(1, Token);
            process.Kill();
            await process.WaitForExitAsync(Token);
        }
        var finished = Lines(journal) - 1;
        var run = await ChildProcess.RunAsync("dotnet", [.. command, "--log-level", "information"]);
        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Contains($"interrupted after {finished} of 49 tensors", run.Error, StringComparison.Ordinal);
        output.WriteLine(run.Error);
        Assert.Equal([target], Directory.EnumerateFileSystemEntries(folder.Path));

        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("whole"), new ErnieExportOptions { Experts = ErniePrecision.Int4, Dense = ErniePrecision.Int8, GroupSize = 32, ModelName = "ernie-tiny-moe" }, cancellationToken: Token);
        AssertSame(folder.File("whole"), target);
    }

    [Fact]
    public async Task FinishedTensors_AreNotWrittenAgain()
    {
        using var interrupted = await InterruptedAsync(tensors: 12);
        var written = await ContinueAsync(interrupted);
        Assert.Equal(12, interrupted.Finished.Count);
        Assert.Empty(written.Intersect(interrupted.Finished));
        Assert.Equal(49, written.Count + interrupted.Finished.Count);
    }

    [Fact]
    public async Task ADamagedTensor_IsWrittenAgain_AndALineWithoutEndMeansNothing()
    {
        using var interrupted = await InterruptedAsync(tensors: 12);
        var manifest = ModelManifest.Read(interrupted.Whole);
        var damaged = manifest.Tensors.Single(tensor => tensor.Name == interrupted.Finished[5]);
        using (var weights = new FileStream(Path.Combine(interrupted.Partial, ModelManifest.WeightFile), FileMode.Open))
        {
            weights.Position = damaged.Offset + damaged.Bytes - 1;
            var value = weights.ReadByte();
            weights.Position--;
            weights.WriteByte((byte)(value ^ 1));
        }
        var next = manifest.Tensors.First(tensor => !interrupted.Finished.Contains(tensor.Name));
        await File.AppendAllTextAsync(Path.Combine(interrupted.Partial, ExportJournal.FileName), $"{next.Sha256} {next.Name}", Token);
        await File.WriteAllTextAsync(Path.Combine(interrupted.Partial, "stray"), "", Token);
        var written = await ContinueAsync(interrupted);
        Assert.Contains(damaged.Name, written);
        Assert.Contains(next.Name, written);
        Assert.Equal(49 - 11, written.Count);
    }

    [Theory]
    [InlineData("options")]
    [InlineData("checkpoint")]
    [InlineData("journal")]
    [InlineData("no journal")]
    [InlineData("no weights")]
    [InlineData("short weights")]
    public async Task LeftoversOfAnotherExport_AreReplaced(string what)
    {
        using var interrupted = await InterruptedAsync(tensors: 12);
        var (journal, weights) = (Path.Combine(interrupted.Partial, ExportJournal.FileName), Path.Combine(interrupted.Partial, ModelManifest.WeightFile));
        var options = interrupted.Options;
        switch (what)
        {
            case "options": options = new ErnieExportOptions { Experts = ErniePrecision.Int4, Dense = ErniePrecision.Int8, GroupSize = 64, ModelName = "model", Calibrate = false }; break;
            case "checkpoint": File.SetLastWriteTimeUtc(Path.Combine(interrupted.Checkpoint, "model.safetensors"), DateTime.UtcNow.AddDays(-1)); break;
            case "journal": File.WriteAllText(journal, "x" + File.ReadAllText(journal)); break;
            case "no journal": File.Delete(journal); break;
            case "no weights": File.Delete(weights); break;
            default: using (var file = File.OpenWrite(weights)) file.SetLength(0); break;
        }
        Assert.Equal(49, (await ContinueAsync(interrupted, options, compare: what != "options")).Count);
    }

    [Fact]
    public async Task ACancelledContinuation_RemovesWhatWasThere()
    {
        using var interrupted = await InterruptedAsync(tensors: 12);
        using var cancellation = new CancellationTokenSource();
        var progress = new DirectProgress<ErnieProgress>(_ => cancellation.Cancel());
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => ErnieExporter.ExportAsync(interrupted.Checkpoint, interrupted.Target, interrupted.Options, progress, cancellation.Token));
        Assert.False(Directory.Exists(interrupted.Partial));
    }

    private static int Lines(string journal)
    {
        try
        {
            using var reader = new StreamReader(new FileStream(journal, FileMode.Open, FileAccess.Read, FileShare.ReadWrite));
            return reader.ReadToEnd().Count(static c => c == '\n');
        }
        catch (IOException)
        {
            return 0;
        }
    }

    /// <summary>What a process leaves that is killed after some tensors: its folder, copied at that moment.</summary>
    private static async Task<Interrupted> InterruptedAsync(int tensors)
    {
        var interrupted = new Interrupted();
        Directory.CreateDirectory(interrupted.Checkpoint);
        foreach (var file in Directory.EnumerateFiles(TinyModel.Checkpoint)) File.Copy(file, Path.Combine(interrupted.Checkpoint, Path.GetFileName(file)));
        await ErnieExporter.ExportAsync(interrupted.Checkpoint, interrupted.Whole, interrupted.Options, cancellationToken: Token);
        var copied = false;
        var progress = new DirectProgress<ErnieProgress>(_ =>
        {
            if (copied || Lines(Path.Combine(interrupted.Partial, ExportJournal.FileName)) <= tensors) return;
            copied = true;
            Directory.CreateDirectory(interrupted.Partial + ".copy");
            foreach (var file in Directory.EnumerateFiles(interrupted.Partial)) CopyOpen(file, Path.Combine(interrupted.Partial + ".copy", Path.GetFileName(file)));
        });
        await ErnieExporter.ExportAsync(interrupted.Checkpoint, interrupted.Target, interrupted.Options, progress, Token);
        Directory.Delete(interrupted.Target, recursive: true);
        Directory.Move(interrupted.Partial + ".copy", interrupted.Partial);
        var lines = await File.ReadAllLinesAsync(Path.Combine(interrupted.Partial, ExportJournal.FileName), Token);
        interrupted.Finished = [.. lines.Skip(1).Select(static line => line.Split(' ')[1])];
        return interrupted;
    }

    /// <summary>A copy of a file that another handle of this process holds locked: .NET's locks are advisory between processes, but checked between handles.</summary>
    private static void CopyOpen(string from, string to)
    {
        using var copy = System.Diagnostics.Process.Start("cp", [from, to]);
        copy.WaitForExit();
        Assert.Equal(0, copy.ExitCode);
    }

    /// <summary>The tensors that the continuation writes.</summary>
    private static async Task<HashSet<string>> ContinueAsync(Interrupted interrupted, ErnieExportOptions? options = null, bool compare = true)
    {
        var all = new HashSet<string>();
        var total = -1L;
        var progress = new DirectProgress<ErnieProgress>(report =>
        {
            // Leftovers are checked before anything is written, against a total of their own.
            if (report.BytesTotal != total) all.Clear();
            total = report.BytesTotal;
            if (report.Stage != "weights") all.Add(report.Stage);
        });
        await ErnieExporter.ExportAsync(interrupted.Checkpoint, interrupted.Target, options ?? interrupted.Options, progress, Token);
        Assert.False(Directory.Exists(interrupted.Partial));
        await ErnieExporter.VerifyAsync(interrupted.Target, cancellationToken: Token);
        if (compare) AssertSame(interrupted.Whole, interrupted.Target);
        return all;
    }

    private static void AssertSame(string expected, string actual)
    {
        Assert.Equal(Directory.EnumerateFiles(expected).Select(Path.GetFileName).Order(), Directory.EnumerateFiles(actual).Select(Path.GetFileName).Order());
        foreach (var file in Directory.EnumerateFiles(expected)) Assert.True(File.ReadAllBytes(file).AsSpan().SequenceEqual(File.ReadAllBytes(Path.Combine(actual, Path.GetFileName(file)))), file);
    }

    private sealed class Interrupted : IDisposable
    {
        private readonly TemporaryFolder _folder = new();

        public ErnieExportOptions Options { get; } = new() { Experts = ErniePrecision.Int4, Dense = ErniePrecision.Int8, GroupSize = 32, ModelName = "model", Calibrate = false };
        public string Checkpoint => _folder.File("checkpoint");
        public string Whole => _folder.File("whole");
        public string Target => _folder.File("out");
        public string Partial => Target + ".exporting";
        public IReadOnlyList<string> Finished { get; set; } = [];
        public void Dispose() => _folder.Dispose();
    }
}
