namespace Ernie.Sdk.Checkpoints;

/// <summary>Decoder layers <paramref name="First"/> to <paramref name="Last"/>, both included.</summary>
internal readonly record struct LayerRange(int First, int Last)
{
    public int Count => Last - First + 1;

    public bool Contains(int layer) => layer >= First && layer <= Last;
}
