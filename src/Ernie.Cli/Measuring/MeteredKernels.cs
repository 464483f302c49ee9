using System.Diagnostics;
using Ernie.Sdk.Kernels;

namespace Ernie.Cli.Measuring;

/// <summary>Kernels that note what every call reads and computes, and leave the computing to others. Of the experts only those count that the router chose.</summary>
/// <remarks>The engine's thread calls them; <see cref="Take"/> may be called from any, between steps.</remarks>
internal sealed unsafe class MeteredKernels(CpuKernels inner) : CpuKernels, ITrafficMeter
{
    private readonly Lock _gate = new();
    private readonly ScratchBuffer _selected = new();
    private readonly BlockSelections _selections = new();
    private readonly Dictionary<nint, bool[]> _touched = [];
    private List<StepTraffic> _steps = [];
    private StepTraffic _step = new();
    private float* _firstNorm;
    private bool[] _inCall = [];

    public override string Name => inner.Name;
    public override bool IsSupported => inner.IsSupported;

    /// <summary>The steps since the last call, and how many experts of each layer all of them touched together, on average.</summary>
    public (IReadOnlyList<StepTraffic> Steps, double TouchedExperts) Take()
    {
        lock (_gate)
        {
            EndStep();
            var touched = _touched.Count == 0 ? 0 : _touched.Values.Average(static layer => layer.Count(static t => t));
            _touched.Clear();
            var steps = _steps;
            _steps = [];
            return (steps, touched);
        }
    }

    public override void AddRmsNorm(in AddRmsNormArguments arguments, in KernelContext context)
    {
        var started = Stopwatch.GetTimestamp();
        inner.AddRmsNorm(arguments, context);
        lock (_gate)
        {
            var elapsed = Stopwatch.GetElapsedTime(started).TotalSeconds;
            // The graph is fixed: a step begins with the norm of the same weight.
            if (_firstNorm == null) _firstNorm = arguments.Weight;
            if (arguments.Weight == _firstNorm)
            {
                EndStep();
                _step.Started = started;
            }
            _step.KernelSeconds += elapsed;
            _step.WeightBytes += sizeof(float) * (long)arguments.Columns;
            _step.MeterSeconds += Stopwatch.GetElapsedTime(started).TotalSeconds - elapsed;
        }
    }

    public override void Linear(in LinearArguments arguments, in KernelContext context)
    {
        var started = Stopwatch.GetTimestamp();
        inner.Linear(arguments, context);
        lock (_gate)
        {
            var elapsed = Stopwatch.GetElapsedTime(started).TotalSeconds;
            _step.KernelSeconds += elapsed;
            _step.WeightBytes += arguments.Weight.ByteCount();
            _step.Operations += 2.0 * arguments.TokenCount * arguments.Weight.Rows * arguments.Weight.Columns;
            _step.MeterSeconds += Stopwatch.GetElapsedTime(started).TotalSeconds - elapsed;
        }
    }

    public override void Attention(in AttentionArguments arguments, in KernelContext context)
    {
        var metered = arguments;
        _selections.Clear();
        metered.Selections = _selections;
        var started = Stopwatch.GetTimestamp();
        inner.Attention(metered, context);
        var elapsed = Stopwatch.GetElapsedTime(started).TotalSeconds;
        var selected = _selections.Items.ToLookup(static selection => selection.Sequence);
        lock (_gate)
        {
            _step.KernelSeconds += elapsed;
            _step.Tokens = arguments.TokenCount;
            _step.Sequences = arguments.SequenceCount;
            for (var s = 0; s < arguments.SequenceCount; s++)
            {
                var (first, end) = (arguments.SequenceStarts[s], arguments.SequenceStarts[s + 1]);
                if (end == first) continue;
                if ((arguments.Flags[s] & (int)SequenceFlags.Decode) == 0) _step.IsDecode = false;
                var (positions, layout) = (arguments.Positions[end - 1] + 1, arguments.Layout);
                var kept = selected[s].ToArray();
                // Of a decode step the kept blocks and the sums of all; what one head of a prompt leaves out another one reads.
                if (kept is [{ IsDecode: true }, ..])
                {
                    _step.CacheBytes += kept.Sum(static selection => selection.Blocks.Length) * (long)layout.ReadBytes
                        + (positions + KvBlockLayout.BlockSize - 1L) / KvBlockLayout.BlockSize * arguments.KvHeadCount * arguments.HeadDim * sizeof(float);
                }
                else _step.CacheBytes += (long)positions * arguments.KvHeadCount * layout.ReadBytes / KvBlockLayout.BlockSize;
                // A query head and position: a product with the key and one with the value.
                var heads = arguments.HeadCount / arguments.KvHeadCount;
                foreach (var selection in kept)
                    _step.Operations += 4.0 * arguments.HeadDim * (selection.IsDecode ? heads : selection.TokenCount) * selection.Blocks.Length * KvBlockLayout.BlockSize;
                var dense = kept.Length == 0 ? end : kept.Min(static selection => selection.FirstToken);
                for (var t = first; t < dense; t++) _step.Operations += 4.0 * arguments.HeadCount * arguments.HeadDim * (arguments.Positions[t] + 1);
            }
            _step.MeterSeconds += Stopwatch.GetElapsedTime(started).TotalSeconds - elapsed;
        }
    }

    public override void Experts(in ExpertsArguments arguments, in KernelContext context)
    {
        var metered = arguments;
        var count = arguments.TokenCount * arguments.ExpertsPerToken;
        if (metered.Selected == null) metered.Selected = (int*)_selected.Rent((nint)count * sizeof(int));
        var started = Stopwatch.GetTimestamp();
        inner.Experts(metered, context);
        var elapsed = Stopwatch.GetElapsedTime(started).TotalSeconds;
        lock (_gate)
        {
            _step.KernelSeconds += elapsed;
            if (!_touched.TryGetValue((nint)arguments.Router, out var touched)) _touched.Add((nint)arguments.Router, touched = new bool[arguments.ExpertCount]);
            if (_inCall.Length != arguments.ExpertCount) _inCall = new bool[arguments.ExpertCount];
            else Array.Clear(_inCall);
            var distinct = 0;
            foreach (var expert in new ReadOnlySpan<int>(metered.Selected, count))
            {
                touched[expert] = true;
                if (_inCall[expert] || expert < arguments.ExpertBegin || expert >= arguments.ExpertEnd) continue;
                _inCall[expert] = true;
                distinct++;
            }
            var (hidden, width) = (arguments.HiddenSize, arguments.IntermediateSize);
            _step.MoeLayers++;
            _step.DistinctExperts += distinct;
            _step.WeightBytes += distinct * ((arguments.GateUp.ByteCount() + arguments.Down.ByteCount()) / (arguments.ExpertEnd - arguments.ExpertBegin)) + sizeof(float) * (long)arguments.ExpertCount * (hidden + 1);
            _step.Operations += 2.0 * arguments.TokenCount * (3.0 * arguments.ExpertsPerToken * hidden * width + (double)arguments.ExpertCount * hidden);
            _step.MeterSeconds += Stopwatch.GetElapsedTime(started).TotalSeconds - elapsed;
        }
    }

    public void Dispose() => _selected.Dispose();

    private void EndStep()
    {
        if (_step.Tokens > 0) _steps.Add(_step);
        _step = new StepTraffic();
    }
}

/// <summary>What one step of the engine read and computed.</summary>
internal sealed class StepTraffic
{
    public int Tokens { get; set; }
    public int Sequences { get; set; }
    /// <summary>Whether every sequence computed one token after its prompt.</summary>
    public bool IsDecode { get; set; } = true;
    /// <summary>Weights of all products, scales and padding included; of routed experts the chosen ones.</summary>
    public long WeightBytes { get; set; }
    /// <summary>Keys and values.</summary>
    public long CacheBytes { get; set; }
    /// <summary>Time inside the kernels.</summary>
    public double KernelSeconds { get; set; }
    /// <summary>Time that the counting itself took.</summary>
    public double MeterSeconds { get; set; }
    /// <summary>Timestamp of the first kernel's beginning.</summary>
    public long Started { get; set; }
    /// <summary>Multiplications and additions.</summary>
    public double Operations { get; set; }
    public int MoeLayers { get; set; }
    /// <summary>Experts read, summed over the layers.</summary>
    public int DistinctExperts { get; set; }
}

internal static class PackedMatrixSize
{
    /// <summary>Bytes of a whole matrix, scales and padding included.</summary>
    public static long ByteCount(this in PackedMatrix matrix) => matrix.Format.Bytes(matrix.Rows / matrix.SectionRows, matrix.SectionRows, matrix.Columns);
}
