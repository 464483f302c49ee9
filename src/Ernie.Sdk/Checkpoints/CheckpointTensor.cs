namespace Ernie.Sdk.Checkpoints;

/// <summary>Element type as stored in the file.</summary>
internal enum StoredType { Float32, Float16, BFloat16 }

/// <summary>
/// One weight of a checkpoint under its canonical name and orientation: [rows = outputs, columns = inputs], whatever the file does. A vector has one row.
/// </summary>
internal abstract class CheckpointTensor
{
    public required string Name { get; init; }
    /// <summary>File the weight lies in, for messages.</summary>
    public required string File { get; init; }
    public required long Rows { get; init; }
    public required long Columns { get; init; }
    public required StoredType Type { get; init; }
    public long Count => checked(Rows * Columns);

    /// <summary>Widens rows [<paramref name="firstRow"/>, +n) exactly into <paramref name="destination"/>, which holds n × <see cref="Columns"/> values.</summary>
    public abstract void Read(long firstRow, Span<float> destination);
}
