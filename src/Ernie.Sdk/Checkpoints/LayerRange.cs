namespace Ernie.Sdk.Checkpoints;

/// <summary>Decoder layers <paramref name="First"/> to <paramref name="Last"/>, both included.</summary>
internal readonly record struct LayerRange(int First, int Last)
{
    public bool Contains(int layer) => layer >= First && layer <= Last;
}
