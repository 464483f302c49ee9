namespace Ernie.Sdk.Checkpoints;

/// <summary>One tensor as a safetensors header declares it; offsets count from the start of the file's data section.</summary>
internal sealed record SafetensorsEntry(string Name, string ElementType, long[] Shape, long Begin, long End)
{
    public long ByteLength => End - Begin;
    public string ShapeText => $"{ElementType} [{string.Join(", ", Shape)}]";
}
