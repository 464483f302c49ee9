using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Ernie.Cli.Measuring;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using LLama.Native;

namespace Ernie.Sdk.Peers;

internal sealed record ComparisonPlan
{
    public required string Model { get; init; }
    public required string Gguf { get; init; }
    public required int Threads { get; init; }
    /// <summary>Decode steps of a repetition.</summary>
    public required int Tokens { get; init; }
    /// <summary>Tokens before them.</summary>
    public required int Depth { get; init; }
    public required IReadOnlyList<int> Prompts { get; init; }
    public required int Rounds { get; init; }
    public required int Repetitions { get; init; }
    public string? Json { get; init; }
}

/// <summary>One repetition of one figure of one engine. Rates are per second.</summary>
/// <param name="Engine">Name.</param>
/// <param name="What"><c>load</c> (seconds to the first token of 16), <c>decode</c> or <c>prefill N</c> (tokens per second).</param>
/// <param name="Value">The figure.</param>
/// <param name="BytesOfStep">Decode only: bytes a step reads.</param>
/// <param name="ReadProbe">What all threads read from memory around it, in bytes per second.</param>
internal sealed record Sample(string Engine, string What, double Value, double BytesOfStep, double ReadProbe);

internal sealed class Comparison : IDisposable
{
    private const int LoadPrompt = 16;
    private static readonly JsonSerializerOptions s_json = new() { WriteIndented = true, PropertyNamingPolicy = JsonNamingPolicy.CamelCase };
    private readonly ComparisonPlan _plan;
    private readonly Random _random = new(4_5);
    private readonly ReadBandwidthProbe _probe;
    private readonly List<Sample> _samples = [];

    private Comparison(ComparisonPlan plan)
    {
        _plan = plan;
        _probe = new ReadBandwidthProbe(new TaskRunner(plan.Threads));
    }

    public static async Task<int> RunAsync(ComparisonPlan plan)
    {
        if (!File.Exists(plan.Gguf)) throw new FileNotFoundException($"{plan.Gguf} does not exist.", plan.Gguf);
        NativeLibraryConfig.All.WithLogCallback(static (level, message) =>
        {
            if (level == LLamaLogLevel.Error) Console.Error.Write($"llama.cpp: {message}");
        });
        // Telemetry off and the version checked, before either engine starts.
        OrtRuntime.Start(null, allowTelemetry: false);
        using var comparison = new Comparison(plan);
        await comparison.MeasureAsync().ConfigureAwait(false);
        comparison.Print();
        if (plan.Json is { } file) await File.WriteAllTextAsync(file, JsonSerializer.Serialize(new { plan, machine = MachineDescription.Current, samples = comparison._samples }, s_json)).ConfigureAwait(false);
        return 0;
    }

    public void Dispose() => _probe.Dispose();

    private async Task MeasureAsync()
    {
        var context = Math.Max(_plan.Prompts.Append(LoadPrompt).Max(), _plan.Depth + _plan.Tokens) + 1;
        var sizes = GgufSizes.Read(_plan.Gguf);
        // An untimed round compiles ours and brings both files into the page cache, as far as it holds them.
        for (var round = 0; round <= _plan.Rounds; round++)
        {
            await MeasureAsync(round, () => ErnieEngine.LoadAsync(_plan.Model, _plan.Threads), decode: true).ConfigureAwait(false);
            await MeasureAsync(round, () => Task.FromResult(LlamaEngine.Load(_plan.Gguf, sizes, _plan.Threads, context, flash: false)), decode: true).ConfigureAwait(false);
            // Flash attention may be the better one for prompts; in decode it never is.
            await MeasureAsync(round, () => Task.FromResult(LlamaEngine.Load(_plan.Gguf, sizes, _plan.Threads, context, flash: true)), decode: false).ConfigureAwait(false);
        }
    }

    private async Task MeasureAsync(int round, Func<Task<Engine>> load, bool decode)
    {
        var isTimed = round > 0;
        var probe = _probe.Measure();
        var start = Stopwatch.GetTimestamp();
        var engine = await load().ConfigureAwait(false);
        await using var disposing = engine.ConfigureAwait(false);
        await engine.PrefillAsync(Prompt(engine, LoadPrompt)).ConfigureAwait(false);
        var seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        Record("load", seconds, 0);
        for (var repetition = 0; repetition < (isTimed ? _plan.Repetitions : 1); repetition++)
        {
            if (decode)
            {
                probe = _probe.Measure();
                var (elapsed, bytes) = await engine.DecodeAsync(Prompt(engine, isTimed ? _plan.Depth : LoadPrompt), _plan.Tokens).ConfigureAwait(false);
                Record("decode", _plan.Tokens / elapsed, bytes);
            }
            foreach (var length in _plan.Prompts)
            {
                probe = _probe.Measure();
                Record($"prefill {length}", length / await engine.PrefillAsync(Prompt(engine, length)).ConfigureAwait(false), 0);
            }
        }

        void Record(string what, double value, double bytes)
        {
            if (!isTimed) return;
            var sample = new Sample(engine.Name, what, value, bytes, (probe + _probe.Measure()) / 2);
            _samples.Add(sample);
            Console.Error.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{round}  {engine.Name,-28} {what,-14} {value,10:F2}  probe {sample.ReadProbe / 1e9:F1} GB/s"));
        }
    }

    private void Print()
    {
        var text = new StringWriter(CultureInfo.InvariantCulture) { NewLine = "\n" };
        text.WriteLine($"{MachineDescription.Current.Processor}, {_plan.Threads} threads; ours {Path.GetFileName(_plan.Model)}, kernels {KernelRegistry.Choose().Name}; llama.cpp {Path.GetFileName(_plan.Gguf)}");
        text.WriteLine($"{"",-20} {"engine",-28} {"median",9} {"least",9} {"most",9} {"GB/step",8} {"GB/s",6} {"probe",6} {"%",4}  ours / best peer");
        foreach (var what in _samples.Select(static s => s.What).Distinct())
        {
            var engines = _samples.Where(s => s.What == what).GroupBy(static s => s.Engine).ToArray();
            var isTime = what == "load";
            var ours = Median.Of(engines.Single(static e => e.Key == "Ernie.Sdk").Select(static s => s.Value));
            var peers = engines.Where(static e => e.Key != "Ernie.Sdk").Select(static e => Median.Of(e.Select(static s => s.Value))).ToArray();
            foreach (var engine in engines)
            {
                var median = Median.Of(engine.Select(static s => s.Value));
                var probe = Median.Of(engine.Select(static s => s.ReadProbe));
                var bytes = Median.Of(engine.Select(static s => s.BytesOfStep));
                var rate = bytes > 0 ? $"{bytes / 1e9,8:F3} {bytes * median / 1e9,6:F1} {probe / 1e9,6:F1} {bytes * median / probe * 100,4:F0}" : $"{"",8} {"",6} {probe / 1e9,6:F1} {"",4}";
                text.WriteLine($"{what + (isTime ? ", s" : ", tok/s"),-20} {engine.Key,-28} {median,9:F2} {engine.Min(static s => s.Value),9:F2} {engine.Max(static s => s.Value),9:F2} {rate}  {(engine.Key == "Ernie.Sdk" ? $"{(isTime ? ours / peers.Min() : ours / peers.Max()):F2}" : "")}");
            }
        }
        Console.Write(text.ToString());
    }

    private int[] Prompt(Engine engine, int tokens) => [.. Enumerable.Range(0, tokens).Select(_ => _random.Next(3, engine.VocabularySize))];
}
