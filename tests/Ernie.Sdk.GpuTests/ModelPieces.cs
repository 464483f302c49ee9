using System.Globalization;
using System.Text.Json;
using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.GpuTests;

/// <summary>Whole models through ONNX Runtime's CUDA provider.</summary>
internal static class ModelPieces
{
    /// <summary>Logits of the shipped model are of order 10. Kernels of both devices sum the same products in float, in other orders.</summary>
    private const double LogitTolerance = 3e-4;
    /// <summary>Two logits of one device can each be off by the tolerance.</summary>
    private const double Tie = 2 * LogitTolerance;
    /// <summary>The golden data's own distance to float64 is 1.6e-4.</summary>
    private const double TinyGoldenTolerance = 5e-4, GoldenTolerance = 1e-4;
    /// <summary>The driver gives memory out in pieces of 2 MiB, and keeps a few.</summary>
    private const long LeakTolerance = 16L << 20;
    private static readonly int[] s_prompt = [1, 17, 300, 42, 9, 1200, 77];

    public static IReadOnlyList<Piece> All { get; } =
    [
        new("model/tiny", "logits and answers of the shipped model against the CPU", Tiny),
        new("model/accuracy", "answers of the shipped model to the questions of its README, as the CPU gives them", Accuracy),
        new("model/goldens", "logits against those of transformers", Goldens),
        new("model/graphs", "decode steps as CUDA graphs give what ordinary ones give", Graphs),
        new("model/leak", "loads, generates and disposes again and again: all device memory comes back", Leak),
        new("model/out-of-memory", "loads and runs where memory is short: refusals that say so, and nothing is left", OutOfMemory),
        new("model/two", "two models in one process at once", Two),
        new("model/several-gpus", "layers of the shipped model divided over all GPUs; where there is one, over two sessions of it", SeveralGpus),
    ];

    private static async Task Tiny(PieceRun run)
    {
        var models = new LoadedModels(run);
        var folder = await models.ExportTinyAsync().ConfigureAwait(false);
        foreach (var kvType in run.IsTiny ? [ErnieKvCacheType.Float32] : Enum.GetValues<ErnieKvCacheType>())
        {
            await using var cpu = await models.LoadAsync(folder, ErnieDevice.Cpu, kvType).ConfigureAwait(false);
            await using var gpu = await models.LoadAsync(folder, ErnieDevice.Cuda, kvType).ConfigureAwait(false);
            // A key or value that falls on the edge between two numbers of its type may fall either way.
            var tolerance = kvType == ErnieKvCacheType.Float32 ? LogitTolerance : 0.05;
            await run.CheckAsync($"logits, {kvType} cache", findings => CompareLogits(models, cpu, gpu, s_prompt, tolerance, tolerance, findings)).ConfigureAwait(false);
            if (kvType != ErnieKvCacheType.Float32) continue;
            if (!run.IsTiny) await run.CheckAsync("logits of 1,500 tokens", findings => CompareLogits(models, cpu, gpu, LoadedModels.Ids(1, 1500), tolerance, tolerance, findings)).ConfigureAwait(false);
            var prompts = run.IsTiny ? [s_prompt] : new[] { s_prompt, LoadedModels.Ids(2, 40), LoadedModels.Ids(3, 200), LoadedModels.Ids(4, 700) };
            await run.CheckAsync($"answers, ties within {Tie.ToString("E1", CultureInfo.InvariantCulture)}", findings => models.CompareAnswersAsync(cpu, gpu, prompts, run.IsTiny ? 3 : 64, Tie, findings)).ConfigureAwait(false);
            await run.CheckAsync("routers' choices", findings =>
            {
                findings.True(gpu.GetExpertLoad().Layers.Count > 0 && gpu.GetExpertLoad().Layers.All(static layer => layer.ExpertTokens.Sum() > 0), "No choices came back from the GPU.");
                return Task.CompletedTask;
            }).ConfigureAwait(false);
        }
        foreach (var precision in run.IsTiny ? [ErniePrecision.Int4] : new[] { ErniePrecision.Int8, ErniePrecision.Int4 })
        {
            var quantised = await models.ExportAsync(LoadedModels.TinyCheckpoint, $"tiny-{precision}", precision, precision).ConfigureAwait(false);
            await using var cpu = await models.LoadAsync(quantised, ErnieDevice.Cpu).ConfigureAwait(false);
            await using var gpu = await models.LoadAsync(quantised, ErnieDevice.Cuda).ConfigureAwait(false);
            // Activations are quantised too, and one on the edge between two codes may fall either way: of int8 the CPU's own kernels differ by 0.16 here.
            await run.CheckAsync($"logits, {precision} weights", findings => CompareLogits(models, cpu, gpu, s_prompt, 0.3, 0, findings)).ConfigureAwait(false);
        }
    }

    /// <summary>In many requests at once, as a server has them.</summary>
    private static async Task Accuracy(PieceRun run)
    {
        const long cacheBytes = 256L << 20;
        var models = new LoadedModels(run);
        var folder = await models.ExportTinyAsync().ConfigureAwait(false);
        await using var cpu = await models.LoadAsync(folder, ErnieDevice.Cpu, kvBytes: cacheBytes).ConfigureAwait(false);
        await using var gpu = await models.LoadAsync(folder, ErnieDevice.Cuda, kvBytes: cacheBytes).ConfigureAwait(false);
        var samples = TinySample.Read(Path.Combine(LoadedModels.TinyCheckpoint, "tiny-eval.jsonl"));
        if (run.IsTiny) samples = [.. samples.OrderBy(static sample => sample.Prompt.Length + sample.Expected.Length).Take(3)];
        async Task<List<int>[]> Answers(ErnieModel model) => await Task.WhenAll(samples.Select(sample => sample.AnswerAsync(model, cancellationToken: run.CancellationToken))).ConfigureAwait(false);
        var (wanted, given) = (await Answers(cpu).ConfigureAwait(false), await Answers(gpu).ConfigureAwait(false));
        var answers = samples.Select((sample, i) => (Sample: sample, Wanted: wanted[i], Given: given[i])).ToArray();
        await run.CheckAsync($"{samples.Count} answers, ties within {Tie.ToString("E1", CultureInfo.InvariantCulture)}", findings =>
            models.CompareAnswersAsync(cpu, answers.Select(answer => (answer.Sample.Ids(cpu), answer.Wanted, answer.Given)), Tie, findings)).ConfigureAwait(false);
        foreach (var task in answers.GroupBy(static answer => answer.Sample.Task))
        {
            int Right(Func<(TinySample Sample, List<int> Wanted, List<int> Given), List<int>> of) => task.Count(answer => answer.Sample.Visible(cpu, of(answer)) == answer.Sample.Expected);
            run.Check($"right answers, {task.Key}", findings =>
            {
                var (cpuRight, gpuRight) = (Right(static answer => answer.Wanted), Right(static answer => answer.Given));
                findings.Remark = $"{gpuRight} of {task.Count()}";
                // A tie that falls the other way may win or lose an answer.
                findings.True(Math.Abs(cpuRight - gpuRight) <= 1, $"{gpuRight} of {task.Count()} instead of {cpuRight}.");
            });
        }
    }

    private static async Task Goldens(PieceRun run)
    {
        var models = new LoadedModels(run);
        await CompareGolden(run, models, await models.ExportTinyAsync().ConfigureAwait(false), Path.Combine(LoadedModels.TinyCheckpoint, "tiny-logits.json"), "ernie-tiny-moe", TinyGoldenTolerance).ConfigureAwait(false);
        var goldens = SharedGoldens(run.Options.Shared);
        foreach (var (name, expected, precision) in new[]
        {
            ("paddle-bf16", "expected-bf16.json", ErniePrecision.BFloat16), ("pt-bf16", "expected-bf16.json", ErniePrecision.BFloat16), ("v5-fused", "expected-bf16.json", ErniePrecision.BFloat16),
            ("2bits", "expected-2bits.json", ErniePrecision.Float32),
        })
        {
            var checkpoint = goldens is null ? null : Path.Combine(goldens, "checkpoints", name);
            if (checkpoint is null || !Directory.Exists(checkpoint))
            {
                run.Skip(name, goldens is null ? "There is no folder shared/data/goldens beside the repository; --shared names it." : $"{checkpoint} is missing.");
                continue;
            }
            if (run.IsTiny && name != "2bits") continue;
            var folder = await models.ExportAsync(checkpoint, $"golden-{name}", precision, precision).ConfigureAwait(false);
            await CompareGolden(run, models, folder, Path.Combine(goldens!, "checkpoints", expected), name, GoldenTolerance).ConfigureAwait(false);
        }
    }

    private static async Task CompareGolden(PieceRun run, LoadedModels models, string folder, string file, string name, double tolerance)
    {
        using var golden = Golden.Open(file);
        await using var gpu = await models.LoadAsync(folder, ErnieDevice.Cuda).ConfigureAwait(false);
        var sequences = golden.RootElement.GetProperty("sequences").EnumerateArray().ToArray();
        if (run.IsTiny) sequences = [sequences.MinBy(static sequence => sequence.GetProperty("input_ids").GetArrayLength())];
        await run.CheckAsync($"{name}: logits of {sequences.Length} texts", async findings =>
        {
            foreach (var sequence in sequences)
            {
                var ids = Golden.Ints(sequence.GetProperty("input_ids"));
                var from = sequence.TryGetProperty("from_position", out var position) ? position.GetInt32() : 0;
                var logits = await models.LogitsAsync(gpu, ids).ConfigureAwait(false);
                findings.Near(Golden.Floats(sequence.GetProperty("logits_f32")), logits.AsSpan(from * gpu.VocabularySize), tolerance, 0, $"{ids.Length} tokens");
            }
        }).ConfigureAwait(false);
    }

    private static async Task Graphs(PieceRun run)
    {
        var folder = await new LoadedModels(run).ExportTinyAsync().ConfigureAwait(false);
        int[] counts = run.IsTiny ? [1, 2] : [1, 2, 4, 8, 16];
        // They come to a second block of the cache, and to a second graph.
        var steps = run.IsTiny ? 3 : 140;
        using var ordinary = new DecodeSteps(run.Installation, folder, counts[^1], steps + 8, graphs: false, overlaps: false, run.CancellationToken);
        foreach (var (name, graphs, overlaps) in new[] { ("graphs", true, false), ("overlap", false, true), ("graphs and overlap", true, true) })
        {
            using var other = new DecodeSteps(run.Installation, folder, counts[^1], steps + 8, graphs, overlaps, run.CancellationToken);
            foreach (var count in counts)
            {
                run.Check($"{name}, {count} sequences, {steps} steps", findings =>
                {
                    var (expected, actual) = (ordinary.Run(count, steps), other.Run(count, steps));
                    findings.Same(expected.Tokens, actual.Tokens, "tokens");
                    findings.SameBits([.. expected.Logits], [.. actual.Logits], "logits");
                    findings.True(other.UsesGraphs == graphs, "Capturing failed, and the steps were ordinary ones.");
                });
            }
        }
    }

    private static async Task Leak(PieceRun run)
    {
        var models = new LoadedModels(run);
        var folder = await models.ExportTinyAsync().ConfigureAwait(false);
        using var context = run.Installation.Gpu().Retain();
        await run.CheckAsync("device memory comes back", async findings =>
        {
            long first = 0, last = 0;
            var rounds = run.IsTiny ? 2 : 24;
            for (var round = 0; round < rounds; round++)
            {
                await using (var model = await models.LoadAsync(folder, ErnieDevice.Cuda).ConfigureAwait(false))
                    findings.True((await models.AnswerAsync(model, s_prompt, run.IsTiny ? 1 : 8).ConfigureAwait(false)).Count > 0, "The model gave no answer.");
                last = context.FreeBytes();
                // What libraries keep for the process, they have taken in the first round.
                if (round == 0) first = last;
            }
            findings.True(first - last <= LeakTolerance, $"{first - last:N0} bytes of {rounds - 1} rounds did not come back.");
            findings.Remark = $"{rounds} rounds, {first - last:N0} bytes fewer free than after the first, of {LeakTolerance:N0} allowed";
        }).ConfigureAwait(false);
    }

    private static async Task OutOfMemory(PieceRun run)
    {
        var models = new LoadedModels(run);
        var folder = await models.ExportTinyAsync().ConfigureAwait(false);
        using var context = run.Installation.Gpu().Retain();
        await using (var model = await models.LoadAsync(folder, ErnieDevice.Cuda).ConfigureAwait(false)) await models.AnswerAsync(model, s_prompt, 1).ConfigureAwait(false);
        var free = context.FreeBytes();
        await run.CheckAsync("a cache that is larger than the GPU is refused", async findings =>
        {
            // The last of its five layers has to be there, with its cache.
            for (var round = 0; round < (run.IsTiny ? 1 : 8); round++) findings.True(await IsRefused(models, folder, 5 * (context.Device.TotalBytes + (1L << 30))).ConfigureAwait(false), "It was not refused.");
            AssertBack(context, free, findings);
        }).ConfigureAwait(false);
        if (run.IsTiny)
        {
            run.Skip("other memory is taken", "The memory of an emulated GPU is the machine's.");
            return;
        }
        await run.CheckAsync("a GPU that is full refuses to load", async findings =>
        {
            foreach (var left in new[] { 0L, 64 << 20, 512 << 20 })
            {
                using (Ballast.Fill(context, left)) findings.True(await IsRefused(models, folder, 8 << 20).ConfigureAwait(false), $"With {left:N0} bytes left it was not refused.");
                AssertBack(context, free, findings);
            }
        }).ConfigureAwait(false);
        await run.CheckAsync("a step without memory ends its request; the next one runs", async findings =>
        {
            await using (var model = await models.LoadAsync(folder, ErnieDevice.Cuda, kvBytes: 64 << 20, configure: static options => options.PrefillChunkTokens = 2048).ConfigureAwait(false))
            {
                for (var round = 0; round < 4; round++)
                {
                    using (Ballast.Fill(context, 0))
                    {
                        try
                        {
                            await models.AnswerAsync(model, LoadedModels.Ids(round, 1900), 1).ConfigureAwait(false);
                            findings.Remark = "What was kept from earlier steps was enough for some.";
                        }
                        catch (InsufficientMemoryException e)
                        {
                            findings.True(e.Message.Contains("no memory left for this step", StringComparison.Ordinal), $"The exception says something else: {e.Message}");
                        }
                    }
                    findings.True((await models.AnswerAsync(model, s_prompt, 4).ConfigureAwait(false)).Count == 4, "The next request does not run.");
                }
            }
            AssertBack(context, free, findings);
        }).ConfigureAwait(false);
    }

    private static async Task Two(PieceRun run)
    {
        var models = new LoadedModels(run);
        var folder = await models.ExportTinyAsync().ConfigureAwait(false);
        await run.CheckAsync("answers at once are those of one alone", async findings =>
        {
            var tokens = run.IsTiny ? 2 : 32;
            int[][] prompts = run.IsTiny ? [s_prompt] : [s_prompt, LoadedModels.Ids(5, 300), LoadedModels.Ids(6, 90)];
            await using var first = await models.LoadAsync(folder, ErnieDevice.Cuda).ConfigureAwait(false);
            var alone = new List<List<int>>();
            foreach (var prompt in prompts) alone.Add(await models.AnswerAsync(first, prompt, tokens).ConfigureAwait(false));
            await using (var second = await models.LoadAsync(folder, ErnieDevice.Cuda).ConfigureAwait(false))
            {
                for (var round = 0; round < (run.IsTiny ? 1 : 4); round++)
                {
                    var answers = await Task.WhenAll(new[] { first, second }.SelectMany(model => prompts.Select(prompt => Task.Run(() => models.AnswerAsync(model, prompt, tokens), run.CancellationToken)))).ConfigureAwait(false);
                    for (var i = 0; i < answers.Length; i++) findings.Same(alone[i % prompts.Length], answers[i], $"model {i / prompts.Length + 1}, prompt {i % prompts.Length}");
                }
            }
            findings.Same(alone[0], await models.AnswerAsync(first, prompts[0], tokens).ConfigureAwait(false), "after the other was disposed");
        }).ConfigureAwait(false);
        await run.CheckAsync("one captures its graphs while the other is loaded and computes", async findings =>
        {
            var tokens = run.IsTiny ? 3 : 32;
            static void Captures(ErnieModelOptions options) => options.CudaGraphs = true;
            await using var first = await models.LoadAsync(folder, ErnieDevice.Cuda).ConfigureAwait(false);
            var alone = await models.AnswerAsync(first, s_prompt, tokens).ConfigureAwait(false);
            var answers = await Task.WhenAll(Enumerable.Range(0, run.IsTiny ? 2 : 8).Select(_ => Task.Run(async () =>
            {
                await using var model = await models.LoadAsync(folder, ErnieDevice.Cuda, configure: Captures).ConfigureAwait(false);
                return await models.AnswerAsync(model, s_prompt, tokens).ConfigureAwait(false);
            }, run.CancellationToken))).ConfigureAwait(false);
            foreach (var answer in answers) findings.Same(alone, answer, "answers");
        }).ConfigureAwait(false);
    }

    private static async Task SeveralGpus(PieceRun run)
    {
        var models = new LoadedModels(run);
        var folder = await models.ExportTinyAsync().ConfigureAwait(false);
        var gpus = run.Installation.UsableGpus().Count;
        // The model has five layers.
        var count = Math.Clamp(gpus, 2, 5);
        await run.CheckAsync(gpus > 1 ? $"{count} GPUs" : "two sessions of one GPU", async findings =>
        {
            var tokens = run.IsTiny ? 3 : 64;
            await using var one = await models.LoadAsync(folder, ErnieDevice.Cuda).ConfigureAwait(false);
            await using var several = await models.LoadAsync(folder, ErnieDevice.Cuda, configure: options =>
            {
                options.GpuCount = count;
                if (gpus == 1) options.Installation = run.Installation with { Choose = static found => [found[0], found[0]] };
            }).ConfigureAwait(false);
            var (expected, actual) = (await models.LogitsAsync(one, s_prompt).ConfigureAwait(false), await models.LogitsAsync(several, s_prompt).ConfigureAwait(false));
            findings.SameBits(expected, actual, "logits");
            foreach (var prompt in run.IsTiny ? [s_prompt] : new[] { s_prompt, LoadedModels.Ids(2, 40), LoadedModels.Ids(4, 700) })
                findings.Same(await models.AnswerAsync(one, prompt, tokens).ConfigureAwait(false), await models.AnswerAsync(several, prompt, tokens).ConfigureAwait(false), $"answer to {prompt.Length} tokens");
        }).ConfigureAwait(false);
    }

    private static async Task CompareLogits(LoadedModels models, ErnieModel cpu, ErnieModel gpu, int[] ids, double absolute, double relative, Findings findings)
    {
        var (expected, actual) = (await models.LogitsAsync(cpu, ids).ConfigureAwait(false), await models.LogitsAsync(gpu, ids).ConfigureAwait(false));
        findings.Near(expected, actual, absolute, relative, "logits");
    }

    private static async Task<bool> IsRefused(LoadedModels models, string folder, long kvBytes)
    {
        try
        {
            await using var model = await models.LoadAsync(folder, ErnieDevice.Cuda, kvBytes: kvBytes).ConfigureAwait(false);
            return false;
        }
        catch (ErnieDeviceException e) when (e.Piece == "GPU memory")
        {
            return true;
        }
    }

    private static void AssertBack(CudaContext context, long free, Findings findings)
    {
        var missing = free - context.FreeBytes();
        findings.True(missing <= LeakTolerance, $"{missing:N0} bytes did not come back.");
    }

    private static string? SharedGoldens(string? named)
    {
        if (named is not null) return Path.Combine(named, "goldens");
        foreach (var start in new[] { AppContext.BaseDirectory, Environment.CurrentDirectory })
        {
            for (var folder = start; folder is not null; folder = Path.GetDirectoryName(folder))
            {
                var goldens = Path.Combine(folder, "shared", "data", "goldens");
                if (Directory.Exists(goldens)) return goldens;
            }
        }
        return null;
    }
}
