using System.Numerics.Tensors;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Operators;

/// <summary>
/// Reads experts' weights ahead of their use, for models larger than memory. When a layer's experts begin, the layer's own choice can be computed, and the next layer's can be guessed: the next
/// layer's norm and router are applied to the residual stream as it stands here, which the work between them changes little. (On the trained tiny model 75 % of choices are guessed; with this layer's norm
/// 74 %.) A <see cref="PageReader"/> asks the system for both.
/// </summary>
/// <remarks>Advice only: results do not depend on it. Used by the engine's thread.</remarks>
internal sealed unsafe class ExpertPrefetch : IDisposable
{
    /// <summary>Pages looked at in each matrix of an expert when residency is measured.</summary>
    private const int SampledPages = 8;

    private readonly ExpertLoad _load;
    private readonly PageReader? _reader;
    private readonly bool _measures;
    private readonly long _maxBytes;
    private readonly ExpertsArguments[] _layers;
    private readonly float[][] _normRatios;
    private readonly int[] _counts;
    private readonly bool[] _isAsked;
    private readonly bool[] _isTaken;
    private readonly ScratchBuffer _scaled = new();
    private readonly ScratchBuffer _logits = new();
    private readonly ScratchBuffer _chosen = new();
    /// <summary>[tokens, k] of layer <see cref="_predictedLayer"/>.</summary>
    private readonly ScratchBuffer _predicted = new();
    private int _predictedLayer = -1;
    private int _predictedTokens;

    /// <param name="load">Takes accuracy and hit rate.</param>
    /// <param name="normRatios">For each layer [hidden], its norm's weight over that of the layer before, which turns one's normed input into the other's; the first is not used.</param>
    /// <param name="reads">Whether to read ahead; without it, only the accuracy is counted.</param>
    /// <param name="measures">Whether to look which pages are in memory when they are needed.</param>
    /// <param name="maxBytes">Most bytes to ask for at once: what is read too early pushes out what is needed now.</param>
    public ExpertPrefetch(ExpertLoad load, float[][] normRatios, bool reads, bool measures, long maxBytes)
    {
        _load = load;
        _normRatios = normRatios;
        _measures = measures && MappedPages.CanTellResidency;
        _maxBytes = maxBytes;
        _layers = new ExpertsArguments[load.Layers.Count];
        _counts = new int[load.ExpertCount];
        _isAsked = new bool[load.ExpertCount];
        _isTaken = new bool[load.ExpertCount];
        if (reads) _reader = new PageReader();
    }

    /// <summary>Bytes that the system was asked for.</summary>
    public long AskedBytes => _reader?.AskedBytes ?? 0;

    /// <summary>Makes a layer's weights known.</summary>
    public void Register(int index, in ExpertsArguments layer) => _layers[index] = layer;

    /// <summary>The experts of a layer are about to run on <paramref name="x"/> [tokens, hidden].</summary>
    public void Begin(int index, float* x, int tokens, CpuKernels kernels, in KernelContext context)
    {
        _reader?.Advance();
        var choices = checked(tokens * _load.ExpertsPerToken);
        var own = new Span<int>(_chosen.Rent((nint)choices * sizeof(int)), choices);
        Choose(_layers[index], x, own, kernels, context);
        _isAsked.AsSpan().Clear();
        if (_predictedLayer == index && _predictedTokens == tokens)
        {
            var predicted = new ReadOnlySpan<int>(_predicted.Rent(0), choices);
            Settle(index, own, predicted);
            foreach (var e in predicted) _isAsked[e] = true;
        }
        Ask(index, own, neededIn: 0);

        _predictedLayer = -1;
        if (index + 1 == _layers.Length) return;
        var next = new Span<int>(_predicted.Rent((nint)choices * sizeof(int)), choices);
        Choose(_layers[index + 1], Rescale(x, tokens, _normRatios[index + 1]), next, kernels, context);
        (_predictedLayer, _predictedTokens) = (index + 1, tokens);
        _isAsked.AsSpan().Clear();
        Ask(index + 1, next, neededIn: 1);
    }

    public void Dispose()
    {
        _reader?.Dispose();
        _scaled.Dispose();
        _logits.Dispose();
        _chosen.Dispose();
        _predicted.Dispose();
    }

    /// <summary>[tokens, hidden] as the next layer's norm would give it, if nothing were added in between.</summary>
    private float* Rescale(float* x, int tokens, ReadOnlySpan<float> ratio)
    {
        var scaled = (float*)_scaled.Rent((nint)tokens * ratio.Length * sizeof(float));
        for (nint t = 0; t < tokens; t++) TensorPrimitives.Multiply(new ReadOnlySpan<float>(x + t * ratio.Length, ratio.Length), ratio, new Span<float>(scaled + t * ratio.Length, ratio.Length));
        return scaled;
    }

    /// <summary>What a layer's router chooses for <paramref name="x"/>, into <paramref name="chosen"/> [tokens, k], each token's in no particular order.</summary>
    private void Choose(in ExpertsArguments layer, float* x, Span<int> chosen, CpuKernels kernels, in KernelContext context)
    {
        var (experts, k) = (_load.ExpertCount, _load.ExpertsPerToken);
        var tokens = chosen.Length / k;
        var logits = (float*)_logits.Rent((nint)tokens * experts * sizeof(float));
        kernels.Linear(new LinearArguments
        {
            Input = x,
            TokenCount = tokens,
            Weight = new PackedMatrix(WeightFormat.Float32, (byte*)layer.Router, experts, layer.HiddenSize),
            Output = logits,
        }, context);
        for (var t = 0; t < tokens; t++) Choose(new Span<float>(logits + (nint)t * experts, experts), layer.CorrectionBias, chosen.Slice(t * k, k));
    }

    private void Choose(Span<float> logits, float* bias, Span<int> chosen)
    {
        var max = float.NegativeInfinity;
        foreach (var logit in logits) max = Math.Max(max, logit);
        float sum = 0;
        for (var e = 0; e < logits.Length; e++) sum += logits[e] = MathF.Exp(logits[e] - max);
        // NaN is never larger: a broken token still chooses.
        for (var e = 0; e < logits.Length; e++) logits[e] = logits[e] / sum + bias[e];
        _isTaken.AsSpan().Clear();
        for (var rank = 0; rank < chosen.Length; rank++)
        {
            var best = -1;
            for (var e = 0; e < logits.Length; e++)
            {
                if (!_isTaken[e] && (best < 0 || logits[e] > logits[best])) best = e;
            }
            _isTaken[best] = true;
            chosen[rank] = best;
        }
    }

    /// <summary>Compares a layer's choice [tokens, k] with what was predicted for the same tokens.</summary>
    private void Settle(int index, ReadOnlySpan<int> own, ReadOnlySpan<int> predicted)
    {
        var k = _load.ExpertsPerToken;
        long right = 0, sampled = 0, resident = 0;
        _counts.AsSpan().Clear();
        for (var first = 0; first < own.Length; first += k)
        {
            foreach (var e in own.Slice(first, k))
            {
                if (!predicted.Slice(first, k).Contains(e)) continue;
                right++;
                if (_measures && _counts[e]++ == 0) Sample(index, e, ref sampled, ref resident);
            }
        }
        _load.Layers[index].AddPrediction(own.Length, right);
        if (sampled > 0) _load.Layers[index].AddResidency(sampled, resident);
    }

    private void Sample(int index, int expert, ref long sampled, ref long resident)
    {
        if (!TryRange(index, expert, out var gateUp, out var gateUpBytes, out var down, out var downBytes)) return;
        for (var i = 0; i < SampledPages; i++)
        {
            if (MappedPages.IsResident(gateUp + gateUpBytes / SampledPages * i)) resident++;
            if (MappedPages.IsResident(down + downBytes / SampledPages * i)) resident++;
        }
        sampled += 2 * SampledPages;
    }

    /// <summary>Asks for the experts that are chosen and not asked for yet, those of most tokens first.</summary>
    private void Ask(int index, ReadOnlySpan<int> chosen, int neededIn)
    {
        if (_reader is null) return;
        _counts.AsSpan().Clear();
        foreach (var e in chosen)
        {
            if (!_isAsked[e]) _counts[e]++;
        }
        for (var bytes = _maxBytes; bytes > 0;)
        {
            var most = 0;
            for (var e = 1; e < _counts.Length; e++)
            {
                if (_counts[e] > _counts[most]) most = e;
            }
            if (_counts[most] == 0) break;
            _counts[most] = 0;
            if (!TryRange(index, most, out var gateUp, out var gateUpBytes, out var down, out var downBytes)) continue;
            _reader.Ask(gateUp, gateUpBytes, neededIn);
            _reader.Ask(down, downBytes, neededIn);
            bytes -= gateUpBytes + downBytes;
        }
        _reader.Wake();
    }

    /// <summary>Where an expert's weights lie; false for one outside the range that is computed here.</summary>
    private bool TryRange(int index, int expert, out byte* gateUp, out nint gateUpBytes, out byte* down, out nint downBytes)
    {
        ref readonly var layer = ref _layers[index];
        gateUp = down = null;
        gateUpBytes = downBytes = 0;
        if (expert < layer.ExpertBegin || expert >= layer.ExpertEnd) return false;
        gateUp = Rows(layer.GateUp, expert - layer.ExpertBegin, 2 * layer.IntermediateSize, out gateUpBytes);
        down = Rows(layer.Down, expert - layer.ExpertBegin, layer.HiddenSize, out downBytes);
        return true;
    }

    private static byte* Rows(in PackedMatrix matrix, nint expert, nint rows, out nint bytes)
    {
        var first = Address(matrix, expert * rows);
        bytes = (nint)(Address(matrix, (expert + 1) * rows) - first);
        return first;
    }

    private static byte* Address(in PackedMatrix matrix, nint row) => matrix.Format.IsPacked ? matrix.Panel(row) : matrix.Row(row);
}
