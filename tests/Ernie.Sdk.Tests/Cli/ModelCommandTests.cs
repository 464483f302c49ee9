using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>Commands that run a model: what goes in and out, and that the numbers are the engine's.</summary>
public sealed class ModelCommandTests(ExportedTinyModel tiny) : IClassFixture<ExportedTinyModel>
{
    private static readonly int[] s_ids = [13, 336, 1446, 331, 1207, 374, 322, 1434];

    [Theory]
    [InlineData("1", "fp32")]
    [InlineData("4", "fp32")]
    public async Task Generate_EqualsTransformers(string parallel, string kv)
    {
        using var golden = Golden.Open(Path.Combine(SharedData.RepositoryRoot, "tests", "Ernie.Sdk.Tests", "Data", "tiny-logits.json"));
        var sequences = golden.RootElement.GetProperty("sequences").EnumerateArray().ToArray();
        var prompts = string.Join('\n', sequences.Select(s => Line(Golden.Ints(s.GetProperty("input_ids")))));
        var run = (await CommandRun.Async(prompts, ["generate", tiny.Model, "--max-tokens", "64", "--kv", kv, "--parallel", parallel])).Succeeded();
        Assert.Equal(sequences.Select(s => Line(Golden.Ints(s.GetProperty("answer_ids")))), run.Lines);
        Assert.Empty(run.Error);
    }

    [Fact]
    public async Task Generate_IgnoringStopTokens_GoesOn()
    {
        const string Prompt = """{"ids":[13,336,1446,1434,1861,1666,38]}""";
        var run = (await CommandRun.Async(Prompt, ["generate", tiny.Model, "--max-tokens", "100", "--ignore-eos"])).Succeeded();
        Assert.Equal(100, Ids(Assert.Single(run.Lines)).Length);
    }

    [Fact]
    public async Task Generate_FromCheckpoint_ExportsOnceAndAnswersTheSame()
    {
        using var cache = new TemporaryFolder();
        string[] options = ["--max-tokens", "8"];
        var first = (await CommandRun.Async(Line(s_ids), ["generate", ExportedTinyModel.Checkpoint, "--cache", cache.Path, .. options])).Succeeded();
        var exported = Assert.Single(Directory.GetDirectories(cache.Path));
        Assert.Contains("experts int4/128, dense int4/128", (await CommandRun.Async("inspect", exported)).Succeeded().Out, StringComparison.Ordinal);
        var written = File.GetLastWriteTimeUtc(exported);
        foreach (var model in new[] { ExportedTinyModel.Checkpoint, exported })
        {
            var again = (await CommandRun.Async(Line(s_ids), ["generate", model, "--cache", cache.Path, .. options])).Succeeded();
            Assert.Equal(first.Out, again.Out);
            Assert.Equal([exported], Directory.GetDirectories(cache.Path));
        }
        Assert.Equal(written, File.GetLastWriteTimeUtc(exported));
    }

    [Fact]
    public async Task Generate_FromFile_EqualsStandardInput()
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllTextAsync(folder.File("in.jsonl"), $"\n{Line(s_ids)}\r\n\n", TestContext.Current.CancellationToken);
        string[] options = ["--max-tokens", "4", "--threads", "1"];
        var file = (await CommandRun.Async("", ["generate", tiny.Model, folder.File("in.jsonl"), .. options])).Succeeded();
        Assert.Equal((await CommandRun.Async(Line(s_ids), ["generate", tiny.Model, .. options])).Out, file.Out);
        Assert.NotEmpty(file.Out);
    }

    [Fact]
    public async Task Generate_WaitingForInput_UsesNoProcessor()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Reads /proc.");
        var start = new ProcessStartInfo("dotnet", ["exec", ChildProcess.Cli, "generate", tiny.Model, "--max-tokens", "4"]) { RedirectStandardInput = true, RedirectStandardOutput = true };
        using var process = Process.Start(start)!;
        await process.StandardInput.WriteLineAsync(Line(s_ids));
        await process.StandardInput.FlushAsync(TestContext.Current.CancellationToken);
        Assert.NotNull(await process.StandardOutput.ReadLineAsync(TestContext.Current.CancellationToken).AsTask().WaitAsync(TimeSpan.FromMinutes(1), TestContext.Current.CancellationToken));
        // Threads that spin between steps, ONNX Runtime's own among them, would never be quiet; .NET compiles in the background for a moment.
        var used = long.MaxValue;
        for (var attempt = 0; attempt < 20 && used > 0; attempt++)
        {
            var before = Ticks(process.Id);
            await Task.Delay(500, TestContext.Current.CancellationToken);
            used = Ticks(process.Id) - before;
        }
        process.StandardInput.Close();
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.Equal((0, 0), (process.ExitCode, used));

        static long Ticks(int id) => File.ReadAllText($"/proc/{id}/stat").Split(' ')[13..15].Sum(static field => long.Parse(field, System.Globalization.CultureInfo.InvariantCulture));
    }

    [Fact]
    public async Task Logits_AreTheRunners()
    {
        using var folder = new TemporaryFolder();
        var run = (await CommandRun.Async($"{Line(s_ids)}\n{Line([5])}", ["logits", tiny.Model, "--out", folder.File("out")])).Succeeded();
        Assert.Equal(["""{"file":"0.npy","shape":[8,2048]}""", """{"file":"1.npy","shape":[1,2048]}"""], run.Lines);
        Assert.Equal(["0.npy", "1.npy"], Directory.GetFiles(folder.File("out")).Select(Path.GetFileName).Order());
        using var runner = new LoadedRunner(ExportedTinyModel.Checkpoint);
        Assert.Equal(runner.Logits(s_ids), Npy(folder.File("out/0.npy"), s_ids.Length, 2048));
        Assert.Equal(runner.Logits([5]), Npy(folder.File("out/1.npy"), 1, 2048));
    }

    [Fact]
    public async Task Perplexity_IsThatOfTheLogits()
    {
        int[] other = [.. Enumerable.Range(0, 200).Select(static i => (i * i + 7) % 2000)];
        var run = (await CommandRun.Async($"{Line(s_ids)}\n{Line(other)}", ["perplexity", tiny.Model])).Succeeded();
        using var runner = new LoadedRunner(ExportedTinyModel.Checkpoint);
        var (first, second) = (Score(runner.Logits(s_ids), s_ids), Score(runner.Logits(other), other));
        Check(run.Lines[0], first, isTotal: false);
        Check(run.Lines[1], second, isTotal: false);
        Check(run.Lines[2], (first.Nll + second.Nll, first.Top1 + second.Top1, first.Tokens + second.Tokens), isTotal: true);
        Assert.Equal(3, run.Lines.Length);
    }

    [Fact]
    public async Task Perplexity_OfUniformLogits_IsLogOfVocabulary()
    {
        using var folder = new TemporaryFolder();
        new TinyCheckpoint { Tied = false }.Write(folder.Path, editTensors: tensors =>
        {
            var head = tensors.FindIndex(static t => t.Name == "lm_head.weight");
            tensors[head] = EncodedTensor.Of("lm_head.weight", StoredType.BFloat16, [64, 32], new float[64 * 32]);
        });
        var run = (await CommandRun.Async(Line([1, 0, 2, 3]), ["perplexity", folder.Path, "--cache", folder.File("cache")])).Succeeded();
        // All logits are equal: the first one, token 0, counts as the most likely.
        Check(run.Lines[0], (3 * Math.Log(64), 1, 3), isTotal: false);
    }

    private static string Line(IEnumerable<int> ids) => $$"""{"ids":[{{string.Join(',', ids)}}]}""";

    private static int[] Ids(string line)
    {
        using var json = JsonDocument.Parse(line);
        return Golden.Ints(json.RootElement.GetProperty("ids"));
    }

    private static float[] Npy(string path, int rows, int columns)
    {
        var bytes = File.ReadAllBytes(path);
        Assert.Equal([0x93, .. "NUMPY"u8.ToArray(), 1, 0], bytes[..8]);
        var start = 10 + BitConverter.ToUInt16(bytes, 8);
        Assert.Equal(0, start % 64);
        var header = Encoding.ASCII.GetString(bytes, 10, start - 10);
        Assert.Equal($"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}", header.TrimEnd());
        Assert.EndsWith("\n", header, StringComparison.Ordinal);
        Assert.Equal(rows * columns * sizeof(float), bytes.Length - start);
        return MemoryMarshal.Cast<byte, float>(bytes.AsSpan(start)).ToArray();
    }

    private static (double Nll, int Top1, int Tokens) Score(float[] logits, int[] ids)
    {
        var vocabulary = logits.Length / ids.Length;
        var (nll, top1) = (0.0, 0);
        for (var t = 0; t + 1 < ids.Length; t++)
        {
            var row = logits.AsSpan(t * vocabulary, vocabulary).ToArray();
            double max = row.Max();
            nll += Math.Log(row.Sum(value => Math.Exp(value - max))) + max - row[ids[t + 1]];
            top1 += Array.IndexOf(row, row.Max()) == ids[t + 1] ? 1 : 0;
        }
        return (nll, top1, ids.Length - 1);
    }

    private static void Check(string line, (double Nll, int Top1, int Tokens) expected, bool isTotal)
    {
        using var json = JsonDocument.Parse(line);
        var root = json.RootElement;
        Assert.Equal(expected.Nll / expected.Tokens, root.GetProperty("nll").GetDouble(), 1e-9);
        Assert.Equal((double)expected.Top1 / expected.Tokens, root.GetProperty("top1").GetDouble(), 1e-12);
        Assert.Equal(expected.Tokens, root.GetProperty("tokens").GetInt32());
        Assert.Equal(isTotal, root.TryGetProperty("total", out var total) && total.GetBoolean());
    }
}
