using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

/// <summary>What the operators of one session share. Everything here is used by one kernel at a time: nodes run in order, on the engine's thread.</summary>
internal sealed class OperatorEnvironment(CpuKernels kernels, KvBlockLayout layout, RopeTable rope, int threadCount, ExpertLoad load, ExpertPrefetch? prefetch) : IDisposable
{
    private readonly ScratchBuffer _scratch = new();
    private readonly ScratchBuffer _selected = new();
    private readonly OrtThreadPool _threads = new(threadCount);

    public CpuKernels Kernels { get; } = kernels;
    public KvBlockLayout Layout { get; } = layout;
    public RopeTable Rope { get; } = rope;
    public ExpertLoad Load { get; } = load;
    /// <summary>Null where experts' weights are not read ahead.</summary>
    public ExpertPrefetch? Prefetch { get; } = prefetch;

    /// <summary>Which tokens of the running step are wanted.</summary>
    public LiveRows Rows { get; set; }

    /// <summary>Makes the kernels of the running step end early, with an exception, or lets the next step's run.</summary>
    public bool IsBrokenOff { set => _threads.IsBrokenOff = value; }

    public KernelContext Enter(OrtComputeContext context)
    {
        _threads.Enter(context);
        return new KernelContext(_threads, _scratch, Rows);
    }

    /// <summary>Memory for router choices that the graph does not ask for.</summary>
    public unsafe int* Choices(int count) => (int*)_selected.Rent((nint)count * sizeof(int));

    /// <summary>The operators of domain <see cref="OperatorSchema.Domain"/>, bound to this environment.</summary>
    public IEnumerable<CustomOperator> Operators() => [new AddRmsNormOperator(this), new LinearOperator(this), new SparseAttentionOperator(this), new MoeExpertsOperator(this)];

    public void Dispose()
    {
        _threads.Dispose();
        _scratch.Dispose();
        _selected.Dispose();
    }
}
