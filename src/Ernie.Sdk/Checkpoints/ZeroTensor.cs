namespace Ernie.Sdk.Checkpoints;

/// <summary>A weight that the checkpoint rightly leaves out: the correction bias of a model trained without one.</summary>
internal sealed class ZeroTensor : CheckpointTensor
{
    public override void Read(long firstRow, Span<float> destination)
    {
        CheckRange(firstRow, destination);
        destination.Clear();
    }
}
