using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using Ernie.Sdk.Export;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Export;

/// <summary>Exports that do not come to their end leave nothing that loads, and nothing in the way of the next one.</summary>
public sealed class ExportFaultTests(ITestOutputHelper output)
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Cancelled_AtEveryReport_LeavesNothing(bool calibrate)
    {
        using var export = new SmallExport(); // makes the checkpoint
        using var folder = new TemporaryFolder();
        using var ids = new CalibrationIds(SmallExport.Shape.Vocabulary);
        var target = folder.File("out");
        var options = calibrate ? new ErnieExportOptions { CalibrationFile = ids.Path } : ExportAs.BFloat16;
        for (var stop = 1; ; stop++)
        {
            using var cancellation = new CancellationTokenSource();
            var reports = 0;
            var progress = new DirectProgress<ErnieProgress>(_ =>
            {
                if (++reports == stop) cancellation.Cancel();
            });
            var e = await Record.ExceptionAsync(() => ErnieExporter.ExportAsync(SmallExport.Checkpoint, target, options, progress, cancellation.Token));
            if (reports < stop)
            {
                Assert.Null(e);
                output.WriteLine($"{reports} reports");
                Assert.True(reports > 10);
                break;
            }
            Assert.Equal(cancellation.Token, Assert.IsAssignableFrom<OperationCanceledException>(e).CancellationToken);
            Assert.Empty(Directory.EnumerateFileSystemEntries(folder.Path));
        }
        await ErnieExporter.VerifyAsync(target, cancellationToken: Token);
    }

    [Fact]
    public async Task AProgressThatThrows_EndsTheExportAndLeavesNothing()
    {
        using var export = new SmallExport();
        using var folder = new TemporaryFolder();
        await Assert.ThrowsAsync<FormatException>(() => ErnieExporter.ExportAsync(SmallExport.Checkpoint, folder.File("out"), ExportAs.BFloat16, new DirectProgress<ErnieProgress>(static _ => throw new FormatException()), Token));
        Assert.Empty(Directory.EnumerateFileSystemEntries(folder.Path));
    }

    [Fact]
    public async Task AKilledExport_LeavesNothingThatLoads_AndTheNextOneSucceeds()
    {
        using var export = new SmallExport();
        using var folder = new TemporaryFolder();
        var target = folder.File("out");
        using (var process = ChildProcess.Start("dotnet", ["exec", ChildProcess.Cli, "synth", "--shape", "0.3b", "--layers", "1", "--out", target]))
        {
            while (!File.Exists(Path.Combine($"{target}.exporting", ModelManifest.WeightFile)) && !process.HasExited) await Task.Delay(1, Token);
            process.Kill();
            await process.WaitForExitAsync(Token);
            Assert.NotEqual(0, process.ExitCode);
        }
        Assert.False(Directory.Exists(target));
        Assert.True(Directory.Exists($"{target}.exporting"));
        await Assert.ThrowsAsync<DirectoryNotFoundException>(() => ErnieModel.LoadAsync(target, cancellationToken: Token));
        await Assert.ThrowsAsync<InvalidDataException>(() => ErnieModel.LoadAsync($"{target}.exporting", cancellationToken: Token));

        await ErnieExporter.ExportAsync(SmallExport.Checkpoint, target, ExportAs.BFloat16, cancellationToken: Token);
        Assert.Equal([target], Directory.EnumerateFileSystemEntries(folder.Path));
        await ErnieExporter.VerifyAsync(target, cancellationToken: Token);
    }

    [Fact]
    public async Task ADiskWithoutRoom_IsRefusedBeforeWriting()
    {
        using var export = new SmallExport();
        using var disk = new TemporaryMount("2m");
        var target = Path.Combine(disk.Path, "out");
        var e = await Assert.ThrowsAsync<IOException>(() => ErnieExporter.ExportAsync(SmallExport.Checkpoint, target, ExportAs.BFloat16, cancellationToken: Token));
        Assert.Contains(target, e.Message, StringComparison.Ordinal);
        Assert.Contains("Free some space", e.Message, StringComparison.Ordinal);
        Assert.Empty(Directory.EnumerateFileSystemEntries(disk.Path));
    }

    [Fact]
    public async Task ADiskThatFillsUp_EndsTheExportWithPathAndCure_AndLeavesNothing()
    {
        using var export = new SmallExport();
        using var disk = new TemporaryMount("70m");
        var target = Path.Combine(disk.Path, "out");
        var filler = Path.Combine(disk.Path, "filler");
        var progress = new DirectProgress<ErnieProgress>(report =>
        {
            // Weights are written; another program takes the rest.
            if (report.BytesDone == report.BytesTotal && report.Stage == "weights") Fill(filler);
        });
        var e = await Assert.ThrowsAsync<IOException>(() => ErnieExporter.ExportAsync(SmallExport.Checkpoint, target, ExportAs.BFloat16, progress, Token));
        output.WriteLine(e.Message);
        Assert.Contains(ModelManifest.ModelFile, e.Message, StringComparison.Ordinal);
        Assert.Contains("free some space", e.Message, StringComparison.Ordinal);
        Assert.Equal([filler], Directory.EnumerateFileSystemEntries(disk.Path));
    }

    [Fact]
    public void AWeightFileThatDoesNotFit_NamesItsPath()
    {
        using var disk = new TemporaryMount("2m");
        var path = Path.Combine(disk.Path, "model.weights");
        var plan = WeightFileWriter.Plan([new ExportedWeight("w", WeightFormat.Float32, [1024, 1024], [])]);
        var e = Assert.Throws<IOException>(() => plan.Write(path, null!, null, new QualityReport(), null, null, Token));
        Assert.Contains(path, e.Message, StringComparison.Ordinal);
        Assert.Contains("free some space", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task AnOutputThatExists_IsRefused_AndStaysAsItIs()
    {
        using var export = new SmallExport();
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder.File("file"), "mine");
        Directory.CreateDirectory(folder.File("full"));
        File.WriteAllText(folder.File("full/note"), "mine");
        Assert.Contains("is a file", (await FailsAsync(folder.File("file"))).Message, StringComparison.Ordinal);
        Assert.Contains("is not empty", (await FailsAsync(folder.File("full"))).Message, StringComparison.Ordinal);
        Assert.Contains("Choose a folder", (await FailsAsync(folder.File("file/below"))).Message, StringComparison.Ordinal);
        Assert.Equal("mine", File.ReadAllText(folder.File("file")));
        Assert.Equal("mine", File.ReadAllText(folder.File("full/note")));
        Assert.Equal(2, Directory.EnumerateFileSystemEntries(folder.Path).Count());

        Directory.CreateDirectory(folder.File("empty"));
        await ErnieExporter.ExportAsync(SmallExport.Checkpoint, folder.File("empty") + Path.DirectorySeparatorChar, ExportAs.BFloat16, cancellationToken: Token);
        await ErnieExporter.VerifyAsync(folder.File("empty"), cancellationToken: Token);
        File.WriteAllText(folder.File("blocked.exporting"), "mine");
        Assert.Contains("blocked.exporting", (await FailsAsync(folder.File("blocked"))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task AReadOnlyPlace_IsRefusedWithPathAndCure()
    {
        using var export = new SmallExport();
        using var disk = new TemporaryMount("70m");
        disk.MakeReadOnly();
        var e = await FailsAsync(Path.Combine(disk.Path, "out"));
        output.WriteLine(e.Message);
        Assert.Contains(disk.Path, e.Message, StringComparison.Ordinal);
        Assert.Contains("Choose a folder", e.Message, StringComparison.Ordinal);
        // The cache of a load must fail too, not wait for an export that it takes for another's.
        var options = new ErnieModelOptions { CacheDirectory = Path.Combine(disk.Path, "cache") };
        var load = await Record.ExceptionAsync(() => ErnieModel.LoadAsync(SmallExport.Checkpoint, options, cancellationToken: Token).WaitAsync(TimeSpan.FromSeconds(30), Token));
        Assert.True(load is IOException or UnauthorizedAccessException, $"{load}");
    }

    [Fact]
    public async Task TwoExportsToOnePlace_TheSecondIsRefused()
    {
        using var export = new SmallExport();
        using var folder = new TemporaryFolder();
        var target = folder.File("out");
        Exception? second = null;
        var progress = new DirectProgress<ErnieProgress>(_ => second ??= Record.Exception(() => ErnieExporter.ExportAsync(SmallExport.Checkpoint, target, ExportAs.BFloat16, cancellationToken: Token).GetAwaiter().GetResult()));
        await ErnieExporter.ExportAsync(SmallExport.Checkpoint, target, ExportAs.BFloat16, progress, Token);
        Assert.IsType<ExportInProgressException>(second);
        Assert.Equal([target], Directory.EnumerateFileSystemEntries(folder.Path));
        await ErnieExporter.VerifyAsync(target, cancellationToken: Token);
    }

    [Fact]
    public async Task ManyExportsToOnePlace_LeaveOneWholeModel()
    {
        using var export = new SmallExport();
        using var folder = new TemporaryFolder();
        for (var round = 0; round < 10; round++)
        {
            var target = folder.File($"out{round}");
            var results = await Task.WhenAll(Enumerable.Range(0, 6).Select(_ => Record.ExceptionAsync(() => ErnieExporter.ExportAsync(SmallExport.Checkpoint, target, ExportAs.BFloat16, cancellationToken: Token)).AsTask()));
            Assert.Single(results, static e => e is null);
            Assert.All(results, static e => Assert.True(e is null or IOException, $"{e}"));
            await ErnieExporter.VerifyAsync(target, cancellationToken: Token);
        }
        Assert.Equal(10, Directory.EnumerateFileSystemEntries(folder.Path).Count());
    }

    [Fact]
    public async Task ManyLoadsOfOneCheckpoint_ShareOneExport()
    {
        using var export = new SmallExport();
        using var cache = new TemporaryFolder();
        var models = await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => ErnieModel.LoadAsync(SmallExport.Checkpoint, new() { CacheDirectory = cache.Path, KvCacheBytes = 4 << 20, Threads = 1 }, cancellationToken: Token)));
        Assert.Single(models.Select(static m => m.Path).Distinct());
        foreach (var model in models) model.Dispose();
        Assert.Single(Directory.EnumerateFileSystemEntries(cache.Path));
    }

    [Fact]
    public async Task ALoadedModel_KeepsAnswering_WhileItsFolderIsReplaced()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows does not delete mapped files.");
        using var export = new SmallExport();
        using var model = await export.LoadAsync();
        var before = await AnswerAsync(model);
        Assert.Contains("is not empty", (await FailsAsync(export.Folder)).Message, StringComparison.Ordinal);
        Directory.Delete(export.Folder, recursive: true);
        await ErnieExporter.ExportAsync(SmallExport.Checkpoint, export.Folder, ExportAs.BFloat16, cancellationToken: Token);
        using var next = await export.LoadAsync();
        Assert.Equal(before, await AnswerAsync(model));
        Assert.Equal(before, await AnswerAsync(next));
    }

    [Fact]
    public async Task AReadOnlyCheckpoint_Exports()
    {
        if (OperatingSystem.IsWindows())
        {
            Assert.Skip("Unix file modes.");
            return;
        }
        using var folder = new TemporaryFolder();
        var checkpoint = folder.File("checkpoint");
        SmallExport.Shape.Write(checkpoint);
        foreach (var file in Directory.EnumerateFiles(checkpoint)) File.SetUnixFileMode(file, UnixFileMode.UserRead);
        File.SetUnixFileMode(checkpoint, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        try
        {
            await ErnieExporter.ExportAsync(checkpoint, folder.File("out"), cancellationToken: Token);
            await ErnieExporter.VerifyAsync(folder.File("out"), cancellationToken: Token);
            Assert.True(File.GetUnixFileMode(folder.File("out/config.json")).HasFlag(UnixFileMode.UserWrite));
        }
        finally
        {
            File.SetUnixFileMode(checkpoint, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        }
    }

    [Theory]
    [InlineData(float.NaN, false)]
    [InlineData(float.PositiveInfinity, true)]
    [InlineData(float.NegativeInfinity, false)]
    public async Task ANonFiniteWeight_IsNamedByTensorRowAndColumn(float value, bool calibrate)
    {
        using var folder = new TemporaryFolder();
        using var ids = new CalibrationIds(SmallExport.Shape.Vocabulary);
        var options = calibrate ? new ErnieExportOptions { CalibrationFile = ids.Path } : ExportAs.BFloat16;
        const string Name = "model.layers.1.self_attn.o_proj.weight";
        SmallExport.Shape.Write(folder.File("checkpoint"), null, tensors =>
        {
            var tensor = tensors.Single(static t => t.Name == Name);
            BinaryPrimitives.WriteUInt16LittleEndian(tensor.Data.AsSpan(2 * (7 * (int)tensor.Shape[1] + 5)), (ushort)(BitConverter.SingleToUInt32Bits(value) >> 16));
        });
        var e = await Assert.ThrowsAsync<InvalidDataException>(() => ErnieExporter.ExportAsync(folder.File("checkpoint"), folder.File("out"), options, cancellationToken: Token));
        Assert.Contains($"{Name} holds {value} at row 7, column 5", e.Message, StringComparison.Ordinal);
        Assert.Equal([folder.File("checkpoint")], Directory.EnumerateFileSystemEntries(folder.Path));
    }

    [Fact]
    public async Task PrivateMemory_StaysBounded_ForACheckpointOfHundredsOfMegabytes()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Reads /proc.");
        using var folder = new TemporaryFolder();
        var bytes = WriteZeros(folder.File("checkpoint"), layers: 4);
        using var process = ChildProcess.Start("dotnet", ["exec", ChildProcess.Cli, "export", folder.File("checkpoint"), folder.File("out")]);
        long most = 0;
        while (!process.HasExited)
        {
            most = Math.Max(most, PrivateBytes(process.Id));
            await Task.Delay(2, Token);
        }
        Assert.Equal(0, process.ExitCode);
        output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e6:F0} MB of checkpoint, at most {most / 1e6:F0} MB private"));
        Assert.InRange(most, 1, 160_000_000);
    }

    private static async Task<List<int>> AnswerAsync(ErnieModel model) =>
        await model.GenerateAsync([1, 2, 3, 4], new() { MaxTokens = 12, Temperature = 0, IgnoreStopTokens = true }, Token).ToListAsync(Token);

    private static Task<IOException> FailsAsync(string target) => Assert.ThrowsAnyAsync<IOException>(() => ErnieExporter.ExportAsync(SmallExport.Checkpoint, target, ExportAs.BFloat16, cancellationToken: Token));

    private static void Fill(string path)
    {
        using var stream = File.Create(path, 1);
        var chunk = new byte[4096];
        try
        {
            while (true) stream.Write(chunk);
        }
        catch (IOException)
        {
            // Full.
        }
    }

    private static long PrivateBytes(int process)
    {
        try
        {
            var line = File.ReadLines($"/proc/{process}/status").FirstOrDefault(static l => l.StartsWith("RssAnon:", StringComparison.Ordinal));
            return line is null ? 0 : 1024 * long.Parse(line.AsSpan(8, line.Length - 8 - 3), CultureInfo.InvariantCulture);
        }
        catch (IOException)
        {
            return 0; // It has just ended.
        }
    }

    /// <summary>A checkpoint of the 0.3B model's widths whose weights are all zero: a file with a hole takes no disk.</summary>
    private static long WriteZeros(string folder, int layers)
    {
        var shape = new TinyCheckpoint { Layers = layers, Hidden = 1024, Heads = 16, KvHeads = 2, HeadDim = 128, Intermediate = 3072, Vocabulary = 103_424 };
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, "config.json"), shape.ConfigJson().ToJsonString());
        long at = 0;
        var header = new JsonObject();
        Add("model.embed_tokens.weight", shape.Vocabulary, shape.Hidden);
        for (var layer = 0; layer < layers; layer++)
        {
            var path = $"model.layers.{layer}";
            Add($"{path}.input_layernorm.weight", shape.Hidden);
            Add($"{path}.post_attention_layernorm.weight", shape.Hidden);
            Add($"{path}.self_attn.q_proj.weight", 2048, shape.Hidden);
            Add($"{path}.self_attn.k_proj.weight", 256, shape.Hidden);
            Add($"{path}.self_attn.v_proj.weight", 256, shape.Hidden);
            Add($"{path}.self_attn.o_proj.weight", shape.Hidden, 2048);
            Add($"{path}.mlp.gate_proj.weight", shape.Intermediate, shape.Hidden);
            Add($"{path}.mlp.up_proj.weight", shape.Intermediate, shape.Hidden);
            Add($"{path}.mlp.down_proj.weight", shape.Hidden, shape.Intermediate);
        }
        Add("model.norm.weight", shape.Hidden);
        var json = Encoding.UTF8.GetBytes(header.ToJsonString());
        using var file = File.Create(Path.Combine(folder, "model.safetensors"));
        Span<byte> length = stackalloc byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(length, json.Length);
        file.Write(length);
        file.Write(json);
        file.SetLength(8 + json.Length + at);
        return file.Length;

        void Add(string name, params long[] sizes)
        {
            var end = at + 2 * sizes.Aggregate(1L, static (a, b) => a * b);
            header[name] = new JsonObject { ["dtype"] = "BF16", ["shape"] = new JsonArray([.. sizes.Select(static s => (JsonNode)s)]), ["data_offsets"] = new JsonArray(at, end) };
            at = end;
        }
    }
}
