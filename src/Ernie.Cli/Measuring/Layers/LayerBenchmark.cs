using System.Diagnostics;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Cli.Measuring.Layers;

internal sealed record LayerBenchmarkPlan
{
    /// <summary>Its sizes are those of the layers.</summary>
    public required ErnieConfig Config { get; init; }
    public required IReadOnlyList<WeightFormat> Formats { get; init; }
    public required IReadOnlyList<int> Tokens { get; init; }
    public required int Threads { get; init; }
    public required int Runs { get; init; }
    /// <summary>Bytes that the weights of successive calls take together: of a linear layer at least; of a layer of experts at most, unless it is larger itself.</summary>
    public required long RotatingBytes { get; init; }
    public required bool Linear { get; init; }
    public required bool Experts { get; init; }
    /// <summary>Whether ONNX Runtime's own operators take part.</summary>
    public required bool OnnxRuntime { get; init; }
    public required CpuKernels Kernels { get; init; }
}

internal sealed record LayerBenchmarkResult
{
    public required MachineDescription Machine { get; init; }
    public required string Kernels { get; init; }
    public required int Threads { get; init; }
    public required MachineReading Before { get; init; }
    public required MachineReading After { get; init; }
    public required IReadOnlyList<LayerRow> Rows { get; init; }
    /// <summary>Contestants that could not take part, with the reason.</summary>
    public required IReadOnlyList<string> Absent { get; init; }
}

/// <summary>One contestant at one number of tokens. Rates are per second.</summary>
internal sealed record LayerRow
{
    public required string Layer { get; init; }
    public required int Tokens { get; init; }
    public required string Name { get; init; }
    public required string Format { get; init; }
    public required bool IsOurs { get; init; }
    /// <summary>Median of the runs.</summary>
    public required double Seconds { get; init; }
    public required double BestSeconds { get; init; }
    public required double Bytes { get; init; }
    public required double BytesPerSecond { get; init; }
    public required double OperationsPerSecond { get; init; }
    public required double ReadProbe { get; init; }
    /// <summary>The one of the format's kind of arithmetic.</summary>
    public required double ArithmeticProbe { get; init; }
    public required double DistinctExperts { get; init; }
    public required long RotatingBytes { get; init; }
    /// <summary>Largest difference from the reference over the largest output.</summary>
    public required double Difference { get; init; }
}

/// <summary>
/// Times one linear layer and one layer of experts beside ONNX Runtime's own operators on the same shape. All run on pools of ONNX Runtime's, take turns within a run, read the same inputs, and are
/// checked against the reference first. Weights rotate: over copies of a layer, and over the experts that other tokens choose.
/// </summary>
internal sealed class LayerBenchmark : IDisposable
{
    private readonly LayerBenchmarkPlan _plan;
    private readonly Action<string> _say;
    private readonly TaskRunner _runner;
    private readonly OrtPool _pool;
    private readonly ReadBandwidthProbe _bandwidth;
    private readonly ArithmeticProbe _arithmetic;
    private readonly List<LayerRow> _rows = [];
    private readonly List<string> _absent = [];

    public LayerBenchmark(LayerBenchmarkPlan plan, Action<string> say)
    {
        (_plan, _say) = (plan, say);
        _runner = new TaskRunner(plan.Threads);
        _pool = new OrtPool(plan.Threads);
        _bandwidth = new ReadBandwidthProbe(_runner);
        _arithmetic = new ArithmeticProbe(_runner);
    }

    public LayerBenchmarkResult Run(CancellationToken cancellationToken)
    {
        var before = MachineReading.Take(_bandwidth, _runner);
        if (_plan.Linear) Linear(cancellationToken);
        if (_plan.Experts && _plan.Config.MoeLayerCount > 0) Experts(cancellationToken);
        var after = MachineReading.Take(_bandwidth, _runner);
        return new LayerBenchmarkResult { Machine = MachineDescription.Current, Kernels = _plan.Kernels.Name, Threads = _plan.Threads, Before = before, After = after, Rows = _rows, Absent = _absent };
    }

    public void Dispose()
    {
        _bandwidth.Dispose();
        _pool.Dispose();
    }

    private void Linear(CancellationToken cancellationToken)
    {
        var c = _plan.Config;
        var (rows, columns) = (c.SharedExpertCount > 0 ? c.SharedIntermediateSize : c.IntermediateSize, c.HiddenSize);
        using var tensors = new LinearTensors(rows, columns, _plan.Tokens.Max(), _runner);
        using var contestants = new Contestants();
        // One number of copies for all, so that a turn means the same for each.
        var copies = (int)Math.Clamp(_plan.RotatingBytes / Ours().Concat(Rivals(columns)).Min(f => f.Bytes(1, rows, columns)) + 1, 2, 4096);
        foreach (var format in Ours().Where(f => Fits(f, columns)))
        {
            contestants.Add(() => new OurLinear("ours", _plan.Kernels, new RandomWeights(format, copies, rows, columns, 2, _runner), tensors, _pool, _runner));
            if (format.Kind == WeightKind.Int2) contestants.Add(() => new OurLinear("ours, own codes", _plan.Kernels, new RandomWeights(format, copies, rows, columns, 2, _runner, ownCodes: true), tensors, _pool, _runner));
        }
        foreach (var format in Rivals(columns)) contestants.Add(() => new OrtLinear(format, copies, tensors, _plan.Threads, _runner));
        Compete($"linear {rows} × {columns}", contestants, _ => copies, cancellationToken);
    }

    private void Experts(CancellationToken cancellationToken)
    {
        var c = _plan.Config;
        var shape = new ExpertsShape(c.HiddenSize, c.ExpertIntermediateSize, c.ExpertCount, c.ExpertsPerToken);
        var ours = Ours().Where(f => Fits(f, shape.Hidden) && Fits(f, shape.Intermediate)).ToArray();
        var rivals = Rivals(shape.Hidden).Intersect(Rivals(shape.Intermediate)).ToArray();
        // A small layer would stay in the processor's cache. One of a released model is too large for that, and for a second copy.
        var smallest = ours.Concat(rivals).Select(f => f.Bytes(2 * shape.Experts, shape.Intermediate, shape.Hidden) + f.Bytes(shape.Experts, shape.Hidden, shape.Intermediate)).DefaultIfEmpty(_plan.RotatingBytes).Min();
        var copies = (int)Math.Clamp(_plan.RotatingBytes / smallest, 1, 4096);
        using var tensors = new ExpertsTensors(shape, copies, _plan.Tokens.Max(), _runner);
        using var contestants = new Contestants();
        foreach (var format in ours)
        {
            contestants.Add(() => OurExperts(format, "ours", ownCodes: false));
            if (format.Kind == WeightKind.Int2) contestants.Add(() => OurExperts(format, "ours, own codes", ownCodes: true));
        }
        foreach (var format in rivals) contestants.Add(() => new OrtExperts(format, tensors, _plan.Threads, _runner));
        Compete($"experts {shape.PerToken} of {shape.Experts}, {shape.Hidden} / {shape.Intermediate}", contestants, Turns, cancellationToken);

        // Whole rounds over the copies, so many that the tokens of a run choose most experts of each.
        int Turns(int tokens) => copies * (copies == 1 ? tokens <= 4 ? 32 : tokens <= 64 ? 8 : 1 : tokens <= 4 ? 8 : tokens <= 64 ? 2 : 1);


        OurExperts OurExperts(WeightFormat format, string name, bool ownCodes) => new(name, _plan.Kernels, OrtExperts.GateUp(format, shape, copies, 4, _runner, ownCodes: ownCodes),
            new RandomWeights(format, copies * shape.Experts, shape.Hidden, shape.Intermediate, 5, _runner, ownCodes), tensors, _pool, _runner);
    }

    private IEnumerable<WeightFormat> Ours() => _plan.Formats;

    /// <summary>ONNX Runtime's formats: those of the asked widths, else four bits, in blocks of 32 and 128.</summary>
    private IEnumerable<WeightFormat> Rivals(int columns)
    {
        if (!_plan.OnnxRuntime) return [];
        var kinds = Ours().Select(static f => f.Kind).Where(static k => k is WeightKind.Int4 or WeightKind.Int8).DefaultIfEmpty(WeightKind.Int4).Distinct();
        return kinds.SelectMany(static kind => new[] { new WeightFormat(kind, 32), new WeightFormat(kind, 128) }).Where(f => columns % f.Group == 0);
    }

    private static bool Fits(WeightFormat format, int columns) => format.Kind != WeightKind.Int2 || columns % Wint2.InputsPerScaleByte == 0;

    private void Compete(string layer, Contestants contestants, Func<int, int> turnsOf, CancellationToken cancellationToken)
    {
        foreach (var tokens in _plan.Tokens)
        {
            var turns = turnsOf(tokens);
            var checks = new Dictionary<Contestant, double>();
            foreach (var contestant in contestants.ToArray())
            {
                cancellationToken.ThrowIfCancellationRequested();
                _say($"{layer}, {tokens} tokens: check of {contestant.Name} {contestant.Format}");
                try
                {
                    checks.Add(contestant, contestant.Check(tokens));
                    contestant.Run(tokens, turns);
                }
                catch (NotSupportedException e)
                {
                    _absent.Add($"{layer}: {contestant.Name} {contestant.Format}: {e.Message}");
                    contestants.Remove(contestant);
                }
            }
            // Tiered compilation needs a pause before the last tier is in place.
            Thread.Sleep(150);
            var times = contestants.ToDictionary(static c => c, static _ => new List<double>());
            var probes = contestants.ToDictionary(static c => c, static _ => new List<(double Read, double Arithmetic)>());
            for (var run = 0; run < _plan.Runs; run++)
            {
                foreach (var contestant in contestants)
                {
                    cancellationToken.ThrowIfCancellationRequested();
                    _say($"{layer}, {tokens} tokens: run {run + 1} of {_plan.Runs}");
                    var (read, arithmetic) = Probe(contestant);
                    var start = Stopwatch.GetTimestamp();
                    contestant.Run(tokens, turns);
                    times[contestant].Add(Stopwatch.GetElapsedTime(start).TotalSeconds / turns);
                    var (readAfter, arithmeticAfter) = Probe(contestant);
                    probes[contestant].Add(((read + readAfter) / 2, (arithmetic + arithmeticAfter) / 2));
                }
            }
            foreach (var contestant in contestants)
            {
                var traffic = contestant.Traffic(tokens, turns);
                var seconds = Median.Of(times[contestant]);
                _rows.Add(new LayerRow
                {
                    Layer = layer,
                    Tokens = tokens,
                    Name = contestant.Name,
                    Format = contestant.Format.ToString(),
                    IsOurs = contestant.IsOurs,
                    Seconds = seconds,
                    BestSeconds = times[contestant].Min(),
                    Bytes = traffic.Bytes,
                    BytesPerSecond = traffic.Bytes / seconds,
                    OperationsPerSecond = traffic.Operations / seconds,
                    ReadProbe = Median.Of(probes[contestant].Select(static p => p.Read)),
                    ArithmeticProbe = Median.Of(probes[contestant].Select(static p => p.Arithmetic)),
                    DistinctExperts = traffic.DistinctExperts,
                    RotatingBytes = contestant.RotatingBytes,
                    Difference = checks[contestant],
                });
            }
        }
    }

    /// <summary>What the machine does at this moment, with the format's kind of arithmetic.</summary>
    private (double Read, double Arithmetic) Probe(Contestant contestant) =>
        (_bandwidth.Measure(), contestant.Format.IsPacked ? _arithmetic.MeasureInt8() ?? _arithmetic.MeasureFloat() : _arithmetic.MeasureFloat());

    private sealed class Contestants : List<Contestant>, IDisposable
    {
        public void Add(Func<Contestant> create) => Add(create());

        public void Dispose()
        {
            foreach (var contestant in this) contestant.Dispose();
        }
    }
}
