namespace Ernie.Sdk.Kernels;

/// <summary>What every kernel call may use: threads, and scratch memory that one session's kernels share because they never run at the same time.</summary>
internal readonly struct KernelContext(IParallelRunner parallel, ScratchBuffer scratch, LiveRows rows = default)
{
    public IParallelRunner Parallel { get; } = parallel;
    public ScratchBuffer Scratch { get; } = scratch;
    public LiveRows Rows { get; } = rows;
}
