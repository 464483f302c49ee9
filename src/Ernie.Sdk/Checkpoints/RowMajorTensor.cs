namespace Ernie.Sdk.Checkpoints;

/// <summary>A weight stored [outputs, inputs]: a whole tensor, consecutive rows of a fused one, or one expert of a stack.</summary>
internal sealed class RowMajorTensor : CheckpointTensor
{
    public required SafetensorsFile Source { get; init; }
    public required SafetensorsEntry Entry { get; init; }
    /// <summary>First element of the weight inside the stored tensor.</summary>
    public required long Offset { get; init; }

    public override unsafe void Read(long firstRow, Span<float> destination)
    {
        CheckRange(firstRow, destination);
        using var mapped = Source.Map(Entry);
        var begin = checked((Offset + firstRow * Columns) * Type.Bytes());
        if (begin + (long)destination.Length * Type.Bytes() > mapped.Length) throw new InvalidOperationException($"{Name} leaves its stored tensor.");
        Widening.Widen(Type, mapped.Pointer + begin, destination);
    }
}
