using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

/// <summary>
/// The routers' choices of a running step, on the GPU until it is over: one copy brings those of all layers. Nobody waits for it: they are counted when the stream was waited for anyway. Used by the engine's thread only.
/// </summary>
internal sealed unsafe class CudaExpertChoices(CudaContext context, ExpertLoad load) : IDisposable
{
    private CudaMemory? _memory; // [layers, tokens, experts per token] int
    private readonly bool[] _isAsked = new bool[load.Layers.Count];
    private CudaPinnedBuffer? _copy; // the same
    private int _tokens;
    private bool _isPending;

    /// <summary>Where they are; 0 without any.</summary>
    public nint Address => _memory?.Address ?? 0;

    /// <summary>Makes room for a step.</summary>
    public void Begin(int tokens)
    {
        _tokens = tokens;
        Array.Clear(_isAsked);
        var bytes = (long)Size * sizeof(int);
        if (bytes == 0 || (_memory?.Bytes >= bytes && _copy is not null)) return;
        Dispose();
        _memory = context.Allocate(bytes);
        _copy = new CudaPinnedBuffer(context, bytes);
    }

    /// <summary>The step is replayed: all layers' choices come, and no operator asks for their place.</summary>
    public void AskAll() => Array.Fill(_isAsked, true);

    /// <summary>Place among the mixture-of-experts layers of the one that a node runs.</summary>
    /// <exception cref="InvalidDataException">The model has no such layer.</exception>
    public int IndexOf(string node, in ExpertsArguments arguments) => MoeExpertsOperator.IndexOf(load, node, arguments);

    /// <summary>Number in the model of a mixture-of-experts layer.</summary>
    public int LayerOf(int index) => load.Layers[index].Layer;

    /// <summary>[tokens, experts per token] for one layer's choices.</summary>
    public int* Of(int layer)
    {
        _isAsked[layer] = true;
        return (int*)_memory!.Address + (nint)layer * _tokens * load.ExpertsPerToken;
    }

    /// <summary>[layers, tokens, experts per token] of the step that was counted last.</summary>
    public ReadOnlySpan<int> Last => _copy is null ? [] : Copied(0, Size);

    /// <summary>[tokens, experts per token] of one layer, in the step that was counted last; empty if nobody asked for them.</summary>
    public ReadOnlySpan<int> Counted(int layer)
    {
        var choices = _tokens * load.ExpertsPerToken;
        return _isAsked[layer] ? Copied(layer * choices, choices) : [];
    }

    /// <summary>Asks for the choices of a step that was asked for.</summary>
    /// <param name="stream">The step's.</param>
    public void End(CudaStream stream)
    {
        if (Size == 0 || !Array.Exists(_isAsked, static asked => asked)) return;
        _memory!.CopyTo(_copy!.Address, (long)Size * sizeof(int), stream: stream);
        _isPending = true;
    }

    /// <summary>Counts what has come: the stream was waited for since <see cref="End"/>.</summary>
    public void Count()
    {
        if (!_isPending) return;
        _isPending = false;
        var choices = _tokens * load.ExpertsPerToken;
        for (var layer = 0; layer < load.Layers.Count; layer++)
        {
            var copied = Copied(layer * choices, choices);
            if (_isAsked[layer]) load.Layers[layer].Add(copied, _tokens);
            else copied.Clear();
        }
    }

    /// <summary>Whether choices are on their way, or have come and were not counted.</summary>
    public bool IsPending => _isPending;

    public void Dispose()
    {
        _memory?.Dispose();
        _copy?.Dispose();
        (_memory, _copy) = (null, null);
    }

    private Span<int> Copied(int first, int count) => new((int*)_copy!.Address + first, count);

    private int Size => checked(load.Layers.Count * _tokens * load.ExpertsPerToken);
}
