namespace Ernie.Sdk.Checkpoints;

/// <summary>A tensor as it lies in a file.</summary>
internal sealed record StoredTensor(SafetensorsFile? Source, string File, SafetensorsEntry Entry)
{
    public string Name => Entry.Name;
    public long[] Shape => Entry.Shape;
    public override string ToString() => $"{Name} {Entry.ShapeText} in {File}";
}
