using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

/// <summary>
/// Routed experts that the CPU computes, of weights in its memory, where ONNX Runtime has mapped them all. The GPU routes; a layer's tokens and the choices come to the CPU, the sum of its experts goes back, and meanwhile
/// the GPU computes the experts that lie in its slots (<see cref="Slots"/>). Used by the engine's thread only.
/// </summary>
internal sealed unsafe class CudaHostExperts : IDisposable
{
    private readonly CudaContext _context;
    private readonly IReadOnlyDictionary<int, int> _counts;
    private readonly CpuKernels _kernels;
    private readonly OrtThreadPool _threads;
    private readonly ScratchBuffer _scratch = new();
    private readonly CudaEvent _arrived;
    private readonly int _hidden, _perToken;
    private CudaPinnedBuffer? _host; // x [tokens, hidden], sum [tokens, hidden], weights [tokens, experts per token], selected [tokens, experts per token]
    private CudaMemory? _device;     // sum [tokens, hidden], weights [tokens, experts per token]
    private int _tokens;

    /// <param name="context">Of the GPU.</param>
    /// <param name="counts">How many experts of a layer stay on the CPU; by layer. At first these are its last ones.</param>
    /// <param name="kernels">What computes them.</param>
    /// <param name="threadCount">Threads of ONNX Runtime's pool.</param>
    /// <param name="hidden">Size of a token.</param>
    /// <param name="load">Counts the routers' choices.</param>
    public CudaHostExperts(CudaContext context, IReadOnlyDictionary<int, int> counts, CpuKernels kernels, int threadCount, int hidden, ExpertLoad load)
    {
        (_context, _counts, _kernels, _hidden, _perToken) = (context, counts, kernels, hidden, load.ExpertsPerToken);
        Slots = new CudaExpertSlots(context, load);
        _threads = new OrtThreadPool(threadCount);
        _arrived = context.CreateEvent();
    }

    /// <summary>Which experts the GPU has.</summary>
    public CudaExpertSlots Slots { get; }

    /// <summary>Which tokens of the running step are wanted.</summary>
    public LiveRows Rows { get; set; }

    /// <summary>Makes the running step end early, with an exception, or lets the next one run. Any thread may set it.</summary>
    public bool IsBrokenOff { set => _threads.IsBrokenOff = value; }

    /// <summary>[tokens, hidden] in device memory: where the experts' sum goes that the GPU's own is added to.</summary>
    public float* DeviceSum => (float*)_device!.Address;

    /// <summary>[tokens, experts per token] in device memory: for the weights of the choices.</summary>
    public float* DeviceWeights => DeviceSum + (nint)_tokens * _hidden;

    /// <summary>Experts of a layer that stay on the CPU.</summary>
    public int CountOf(int layer) => _counts.GetValueOrDefault(layer);

    /// <summary>Device memory for a number of tokens.</summary>
    public static long DeviceBytes(int tokens, int hidden, int perToken) => (long)tokens * (hidden + perToken) * sizeof(float);

    /// <summary>Makes room for a step of so many tokens. What an earlier step has asked for is done.</summary>
    /// <exception cref="CudaException">Among others <see cref="CudaException.IsOutOfMemory"/>.</exception>
    public void Reserve(int tokens)
    {
        if (tokens <= _tokens) return;
        Free();
        _host = new CudaPinnedBuffer(_context, 2 * (long)tokens * (_hidden + _perToken) * sizeof(float));
        _device = _context.Allocate(DeviceBytes(tokens, _hidden, _perToken));
        _tokens = tokens;
    }

    /// <summary>Asks for a layer's tokens and for the choices of its router.</summary>
    /// <param name="a">What the GPU computes.</param>
    /// <param name="stream">The node's.</param>
    public void Ask(in ExpertsArguments a, nint stream)
    {
        Receive(Input, a.Input, (long)a.TokenCount * _hidden * sizeof(float), stream);
        Receive(Weights, a.Weights, (long)a.TokenCount * _perToken * sizeof(float), stream);
        Receive(Selected, a.Selected, (long)a.TokenCount * _perToken * sizeof(int), stream);
        _arrived.Record(stream);
    }

    /// <summary>Computes what was asked for. False where the GPU has all experts that were chosen.</summary>
    /// <param name="node">All experts, and their weights.</param>
    /// <param name="slots">[experts] -1 for those that the GPU does not have.</param>
    /// <param name="tokens">Tokens of the step.</param>
    /// <param name="call">The node's call, whose thread pool is used.</param>
    public bool Compute(in ExpertsArguments node, ReadOnlySpan<int> slots, int tokens, OrtComputeContext call)
    {
        _arrived.Synchronize();
        var selected = new Span<int>(Selected, tokens * _perToken);
        foreach (ref var expert in selected)
        {
            // Kernels leave out what is outside of the range.
            if (slots[expert] >= 0) expert = -1;
        }
        if (!selected.ContainsAnyInRange(node.ExpertBegin, node.ExpertEnd - 1)) return false;
        var a = node;
        a.Input = Input;
        a.Output = Sum;
        a.Selected = Selected;
        a.Weights = Weights;
        a.TokenCount = tokens;
        _threads.Enter(call);
        _kernels.Experts(a, new KernelContext(_threads, _scratch, Rows));
        return true;
    }

    /// <summary>Asks for the sum to be copied to device memory.</summary>
    public void Send(float* target, int tokens, nint stream)
    {
        _context.Enter();
        _context.Driver.Check(_context.Driver.MemcpyHtoDAsync((nint)target, Sum, (nuint)tokens * (nuint)_hidden * sizeof(float), stream), "cuMemcpyHtoDAsync");
    }

    public void Dispose()
    {
        Free();
        Slots.Dispose();
        _arrived.Dispose();
        _threads.Dispose();
        _scratch.Dispose();
    }

    private float* Input => (float*)_host!.Address;
    private float* Sum => Input + (nint)_tokens * _hidden;
    private float* Weights => Sum + (nint)_tokens * _hidden;
    private int* Selected => (int*)(Weights + (nint)_tokens * _perToken);

    private void Receive(void* target, void* source, long bytes, nint stream)
    {
        _context.Enter();
        _context.Driver.Check(_context.Driver.MemcpyDtoHAsync(target, (nint)source, (nuint)bytes, stream), "cuMemcpyDtoHAsync");
    }

    private void Free()
    {
        _device?.Dispose();
        _host?.Dispose();
        (_device, _host, _tokens) = (null, null, 0);
    }
}
