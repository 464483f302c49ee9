using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

/// <summary>The routers' choices of a running step, on the GPU until it is over: one copy brings those of all layers. Used by the engine's thread only.</summary>
internal sealed unsafe class CudaExpertChoices(CudaContext context, ExpertLoad load) : IDisposable
{
    private CudaMemory? _memory; // [layers, tokens, experts per token] int
    private readonly bool[] _isAsked = new bool[load.Layers.Count];
    private int[] _copy = [];
    private int _tokens;

    /// <summary>Where they are; 0 without any.</summary>
    public nint Address => _memory?.Address ?? 0;

    /// <summary>Makes room for a step.</summary>
    public void Begin(int tokens)
    {
        _tokens = tokens;
        Array.Clear(_isAsked);
        var bytes = (long)Count * sizeof(int);
        if (bytes == 0 || _memory?.Bytes >= bytes) return;
        _memory?.Dispose();
        _memory = null;
        _memory = context.Allocate(bytes);
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
    public ReadOnlySpan<int> Last => _copy.AsSpan(0, Count);

    /// <summary>[tokens, experts per token] of one layer, in the step that was counted last; empty if nobody asked for them.</summary>
    public ReadOnlySpan<int> Counted(int layer)
    {
        var choices = _tokens * load.ExpertsPerToken;
        return _isAsked[layer] ? _copy.AsSpan(layer * choices, choices) : [];
    }

    /// <summary>Counts the choices of a step that is over.</summary>
    /// <param name="stream">The step's.</param>
    public void End(CudaStream stream)
    {
        if (Count == 0 || !Array.Exists(_isAsked, static asked => asked)) return;
        if (_copy.Length < Count) _copy = new int[Count];
        fixed (int* target = _copy)
        {
            _memory!.CopyTo(target, (long)Count * sizeof(int), stream: stream);
            stream.Synchronize();
        }
        var choices = _tokens * load.ExpertsPerToken;
        for (var layer = 0; layer < load.Layers.Count; layer++)
        {
            if (_isAsked[layer]) load.Layers[layer].Add(_copy.AsSpan(layer * choices, choices), _tokens);
            else _copy.AsSpan(layer * choices, choices).Clear();
        }
    }

    public void Dispose() => _memory?.Dispose();

    private int Count => checked(load.Layers.Count * _tokens * load.ExpertsPerToken);
}
