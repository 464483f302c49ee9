namespace Ernie.Sdk.Quantization;

/// <summary>
/// Byte formats of a weight matrix [rows = outputs, columns = inputs] as the exporter writes and the kernels read it. Formats with groups (int8, int4, int2) follow;
/// a group is a run of consecutive columns with one scale, there are ceil(columns / group) of them in a row, and the last one is shorter where the group does not divide the columns.
/// </summary>
internal enum WeightFormat
{
    /// <summary>Row-major IEEE single.</summary>
    Float32,
    /// <summary>Row-major bfloat16, rounded to nearest even from wider sources.</summary>
    BFloat16,
}

internal static class WeightFormats
{
    /// <summary>Bytes of one packed row of <paramref name="columns"/> inputs.</summary>
    public static long RowBytes(this WeightFormat format, long columns) => format switch
    {
        WeightFormat.Float32 => checked(columns * 4),
        WeightFormat.BFloat16 => checked(columns * 2),
        _ => throw new ArgumentOutOfRangeException(nameof(format)),
    };
}
