namespace Ernie.Sdk.Checkpoints;

/// <summary>A tensor as it lies in a file.</summary>
internal sealed record StoredTensor(SafetensorsFile? Source, string File, SafetensorsEntry Entry)
{
    public string Name => Entry.Name;
    public long[] Shape => Entry.Shape;
    public override string ToString() => $"{Name} {Entry.ShapeText} in {File}";

    /// <summary>Widens elements from <paramref name="first"/> on, of a tensor of a <see cref="StoredType"/>.</summary>
    public unsafe void Read(long first, Span<float> destination)
    {
        var type = StoredTypes.FromSafetensors(Entry.ElementType) ?? throw new InvalidOperationException($"{this} holds no plain weights.");
        using var mapped = Source!.Map(Entry);
        if (checked((first + destination.Length) * type.Bytes()) > mapped.Length) throw new InvalidOperationException($"{Name} ends before element {first + destination.Length}.");
        Widening.Widen(type, mapped.Pointer + first * type.Bytes(), destination);
    }
}
