namespace Ernie.Sdk.Fuzz;

/// <summary>A reader of files from outside, and real inputs to start from.</summary>
internal sealed record FuzzReader(string Name, IReadOnlyList<byte[]> Seeds, Action<byte[]> Read)
{
    /// <summary>Whether inputs are JSON, so that mutations may keep the grammar.</summary>
    public bool IsJson { get; init; } = true;
    /// <summary>Readers refuse what is wrong by these two; everything else is a failure.</summary>
    public Func<Exception, bool> Allowed { get; init; } = static e => e is InvalidDataException or NotSupportedException;
    /// <summary>Bytes that one input may make the reader allocate: a constant and a multiple of the input's length.</summary>
    public long MaxAllocated { get; init; } = 4_000_000;
    public long MaxAllocatedPerByte { get; init; } = 200;
}
