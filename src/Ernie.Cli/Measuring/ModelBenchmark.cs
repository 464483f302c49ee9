using System.Diagnostics;
using Ernie.Cli.Measuring.Cards;
using Ernie.Sdk;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Cli.Measuring;

/// <summary>What to measure of a model.</summary>
internal sealed record ModelBenchmarkPlan
{
    public const int LoadPromptTokens = 16;
    public required int Threads { get; init; }
    public required int Runs { get; init; }
    /// <summary>Tokens that each sequence decodes in a run.</summary>
    public required int Tokens { get; init; }
    /// <summary>Sequences that decode at once.</summary>
    public required IReadOnlyList<int> Sequences { get; init; }
    /// <summary>Lengths of prompts.</summary>
    public required IReadOnlyList<int> Prompts { get; init; }
    /// <summary>Where CUDA is, if a GPU computes.</summary>
    public CudaInstallation? Installation { get; init; }
    /// <summary>GPUs that the model is divided over, if it is computed on one.</summary>
    public int GpuCount { get; init; } = 1;
}

/// <summary>
/// Times a loaded model through its public interface. Prompts are random ids, other ones in every run, and answers go on whatever token comes; bytes are those of the tensors that the kernels were given.
/// </summary>
/// <param name="plan">What to measure.</param>
/// <param name="load">Loads the model, with a meter that sees its steps.</param>
/// <param name="say">Told what is measured.</param>
internal sealed class ModelBenchmark(ModelBenchmarkPlan plan, Func<Task<(ErnieModel Model, ITrafficMeter Meter)>> load, Action<string> say)
{
    private readonly Random _random = new(20_26);
    private readonly TaskRunner _runner = new(plan.Threads);

    public async Task<ModelBenchmarkResult> RunAsync(CancellationToken cancellationToken)
    {
        say("load");
        var (loads, model, meter) = await LoadAsync(cancellationToken).ConfigureAwait(false);
        using var _ = meter;
        await using var disposing = model.ConfigureAwait(false);
        var manifest = ModelManifest.Read(model.Path);
        var afterLoad = ProcessMemory.Now();
        var longest = plan.Prompts.Count == 0 ? ModelBenchmarkPlan.LoadPromptTokens : Math.Min(plan.Prompts.Max(), model.ContextLength - 1);
        say($"prefill of {longest} tokens, memory");
        var peakPrivate = await ProcessMemory.PeakPrivateDuringAsync(() => PrefillAsync(model, longest, cancellationToken)).ConfigureAwait(false);
        var memory = new MemoryResult(afterLoad.Private, afterLoad.Mapped, longest, peakPrivate, ProcessMemory.Now());

        using var bandwidth = plan.Installation is null ? new ReadBandwidthProbe(_runner) : null;
        using var card = plan.Installation is { } installation ? new CardCopyProbe(installation, plan.GpuCount) : null;
        say("probes");
        var before = bandwidth is null ? null : MachineReading.Take(bandwidth, _runner);
        var copiesBefore = card?.Measure();
        // Compiles everything that the timed runs call; the pause lets the last tier come into place.
        await DecodeAsync(model, 1, Math.Min(plan.Tokens, 16), cancellationToken).ConfigureAwait(false);
        await Task.Delay(200, cancellationToken).ConfigureAwait(false);

        var perStep = StepConstant(manifest);
        var arithmetic = new ArithmeticProbe(_runner);
        var isPacked = manifest.Formats.Dense.IsPacked || manifest.Formats.Experts.IsPacked;
        double Bandwidth() => card?.Measure() ?? bandwidth!.Measure();
        double Arithmetic() => isPacked ? arithmetic.MeasureInt8() ?? arithmetic.MeasureFloat() : arithmetic.MeasureFloat();
        var decodes = new Dictionary<int, List<DecodeRun>>();
        var prefills = new Dictionary<int, List<PrefillRun>>();
        for (var run = 0; run < plan.Runs; run++)
        {
            foreach (var sequences in plan.Sequences)
            {
                say($"run {run + 1} of {plan.Runs}: decode of {sequences} sequences");
                meter.Take();
                var probe = Bandwidth();
                var (tokens, seconds) = await DecodeAsync(model, sequences, plan.Tokens, cancellationToken).ConfigureAwait(false);
                probe = (probe + Bandwidth()) / 2;
                var (steps, touched) = meter.Take();
                // The window begins when the last prompt is done; a sequence may end a step later than another.
                var full = steps.Where(s => s.IsDecode && s.Sequences == sequences).ToArray();
                if (full.Length == 0 || seconds <= 0) continue;
                Add(decodes, sequences, new DecodeRun(tokens / seconds, full.Average(s => s.WeightBytes + s.CacheBytes) + perStep.Bytes + (double)sequences * perStep.BytesOfToken,
                    full.Average(static s => s.Operations), full.Average(static s => s.MoeLayers == 0 ? 0 : (double)s.DistinctExperts / s.MoeLayers), touched, probe));
            }
            foreach (var prompt in plan.Prompts.Where(p => p < model.ContextLength))
            {
                say($"run {run + 1} of {plan.Runs}: prefill of {prompt} tokens");
                meter.Take();
                // A card has no probe of its arithmetic here.
                var probe = card is null ? Arithmetic() : Bandwidth();
                var seconds = await PrefillAsync(model, prompt, cancellationToken).ConfigureAwait(false);
                probe = (probe + (card is null ? Arithmetic() : Bandwidth())) / 2;
                var (steps, touched) = meter.Take();
                Add(prefills, prompt, new PrefillRun(seconds, steps.Sum(static s => s.Operations), steps.Sum(static s => (double)s.WeightBytes + s.CacheBytes), touched, card is null ? probe : null, card is null ? null : probe));
            }
        }
        say("probes");
        var after = bandwidth is null ? null : MachineReading.Take(bandwidth, _runner);

        return new ModelBenchmarkResult
        {
            Model = model.ModelId,
            Formats = manifest.Formats.Describe(manifest.Config),
            ExpertCount = manifest.Config.ExpertCount,
            Kernels = meter.Name,
            Threads = plan.Threads,
            Runs = plan.Runs,
            WeightBytes = manifest.WeightBytes,
            Machine = MachineDescription.Current,
            Loads = loads,
            Memory = memory,
            Before = before,
            After = after,
            Card = card is null ? null : new CardReading(card.Name, copiesBefore!.Value, card.Measure()),
            Decode = [.. decodes.Select(static d => DecodeResult.Of(d.Key, d.Value))],
            Prefill = [.. prefills.Select(static p => PrefillResult.Of(p.Key, p.Value))],
        };
    }

    /// <summary>Loads several times; the last model stays. The first load reads files that are not in the page cache yet, and compiles.</summary>
    private async Task<(IReadOnlyList<LoadResult> Loads, ErnieModel Model, ITrafficMeter Meter)> LoadAsync(CancellationToken cancellationToken)
    {
        var results = new List<LoadResult>();
        for (var run = 0; ; run++)
        {
            var start = Stopwatch.GetTimestamp();
            var (model, meter) = await load().ConfigureAwait(false);
            var loaded = Stopwatch.GetElapsedTime(start).TotalSeconds;
            await PrefillAsync(model, ModelBenchmarkPlan.LoadPromptTokens, cancellationToken).ConfigureAwait(false);
            results.Add(new LoadResult(loaded, Stopwatch.GetElapsedTime(start).TotalSeconds));
            if (run == plan.Runs) return (results, model, meter);
            await model.DisposeAsync().ConfigureAwait(false);
            meter.Dispose();
        }
    }

    /// <summary>Seconds from the request to its first token.</summary>
    private async Task<double> PrefillAsync(ErnieModel model, int tokens, CancellationToken cancellationToken)
    {
        var start = Stopwatch.GetTimestamp();
        await foreach (var _ in model.GenerateAsync(Prompt(model, tokens), Greedy(1), cancellationToken).ConfigureAwait(false))
        {
        }
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    /// <summary>Tokens that came, and the seconds, while all sequences decoded: from the last one's first token to the first one's last.</summary>
    private async Task<(int Tokens, double Seconds)> DecodeAsync(ErnieModel model, int sequences, int tokens, CancellationToken cancellationToken)
    {
        // One more than is counted: the first token belongs to the prompt.
        var prompts = Enumerable.Range(0, sequences).Select(_ => Prompt(model, ModelBenchmarkPlan.LoadPromptTokens)).ToArray();
        var times = await Task.WhenAll(prompts.Select(prompt => Task.Run(() => TimesAsync(prompt), cancellationToken))).ConfigureAwait(false);
        var (begin, end) = (times.Max(static t => t[0]), times.Min(static t => t[^1]));
        return (times.Sum(t => t.Count(time => time > begin && time <= end)), Stopwatch.GetElapsedTime(begin, end).TotalSeconds);

        async Task<List<long>> TimesAsync(int[] prompt)
        {
            var arrivals = new List<long>();
            await foreach (var _ in model.GenerateAsync(prompt, Greedy(tokens + 1), cancellationToken).ConfigureAwait(false)) arrivals.Add(Stopwatch.GetTimestamp());
            return arrivals;
        }
    }

    private int[] Prompt(ErnieModel model, int tokens) => [.. Enumerable.Range(0, tokens).Select(_ => _random.Next(model.VocabularySize))];

    /// <summary>
    /// Greedy, which costs the sampler least. The presence penalty keeps random weights from repeating one token for ever, with always the same experts.
    /// </summary>
    private static ErnieGenerationOptions Greedy(int tokens) =>
        new() { MaxTokens = tokens, IgnoreStopTokens = true, Temperature = 0, RepetitionPenalty = 1, FrequencyPenalty = 0, PresencePenalty = 2 };

    /// <summary>What ONNX Runtime's own operators read: norms once a step, a row of the embedding for each token.</summary>
    private static (double Bytes, double BytesOfToken) StepConstant(ModelManifest manifest)
    {
        var norms = manifest.Tensors.Where(static t => t.Name.EndsWith("norm.weight", StringComparison.Ordinal)).Sum(static t => t.Bytes);
        var embedding = manifest.Tensors.First(static t => t.Name == TensorNames.Embedding);
        return (norms, (double)embedding.Bytes / embedding.Shape[0]);
    }

    private static void Add<T>(Dictionary<int, List<T>> runs, int key, T run)
    {
        if (!runs.TryGetValue(key, out var list)) runs.Add(key, list = []);
        list.Add(run);
    }
}
