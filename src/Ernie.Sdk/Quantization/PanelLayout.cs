namespace Ernie.Sdk.Quantization;

/// <summary>
/// Addressing inside one panel of a packed weight: 16 rows (outputs) with all their columns (inputs). No other code computes an offset.
/// </summary>
/// <remarks>
/// Columns are padded with zeros to blocks of 32, rows to 16. A panel is, in order,
/// <code>
/// int8    codes   [blocks, 8 lines, 16 rows, 4]     u8    q + 128 of inputs 32·block + 4·line + 0..3
///         scales  [groups, 16 rows]                 fp16  (one float a row where the group is the row)
/// int4    codes   [blocks, 4 lines, 16 rows, 4]     u8    low nibble: q + 8 of inputs 32·block + 8·line + 0..3, high nibble: the next four
///         scales  as int8
/// int2    codes   [columns / 4, 16 rows]            u8    WINT2 byte of inputs 4·i .. 4·i+3
///         groups  [columns / 128, 16 rows]          u8    high nibble: scale of the even group of 64, low nibble: of the odd one
///         codes'  [2, 16 rows]                      float code_scale, then code_zp
///         super   [16 rows]                         float super_scale, widened from bfloat16
/// </code>
/// padded to a multiple of 64 bytes. A line of 64 bytes is what one vector load takes.
/// </remarks>
internal readonly struct PanelLayout
{
    /// <summary>Rows of a panel.</summary>
    public const int Rows = 16;
    /// <summary>Inputs of a block: the inputs that share one scale of the quantised activations.</summary>
    public const int BlockColumns = 32;
    private const int LineBytes = 64;

    public PanelLayout(WeightFormat format, long columns)
    {
        if (!format.IsPacked) throw new ArgumentException($"{format} has no panels.", nameof(format));
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(columns);
        if (format.Kind == WeightKind.Int2 && columns % Wint2.InputsPerScaleByte != 0)
            throw new ArgumentException($"int2 needs a multiple of {Wint2.InputsPerScaleByte} inputs; {columns} are none.", nameof(columns));
        Format = format;
        Columns = columns;
        BlockCount = (columns + BlockColumns - 1) / BlockColumns;
        GroupColumns = format.Group == 0 ? BlockCount * BlockColumns : format.Group;
        GroupCount = (columns + GroupColumns - 1) / GroupColumns;
        CodeBytes = checked(BlockCount * BlockBytes);
        var scaleBytes = format.Kind == WeightKind.Int2 ? GroupScaleBytes + 3 * Rows * sizeof(float)
            : GroupCount * Rows * (format.Group == 0 ? sizeof(float) : 2);
        PanelBytes = checked((CodeBytes + scaleBytes + LineBytes - 1) / LineBytes * LineBytes);
    }

    public WeightFormat Format { get; }
    public long Columns { get; }
    public long BlockCount { get; }
    /// <summary>Groups of a row.</summary>
    public long GroupCount { get; }
    /// <summary>Inputs of a group, padding included: a multiple of a block.</summary>
    public long GroupColumns { get; }
    public long PanelBytes { get; }
    public long CodeBytes { get; }

    /// <summary>Bytes of codes of one block of one panel.</summary>
    public long BlockBytes => Format.Kind switch
    {
        WeightKind.Int8 => 512,
        WeightKind.Int4 => 256,
        _ => 128,
    };

    /// <summary>Offset of the scales (int8, int4) or of the group nibbles (int2).</summary>
    public long ScaleOffset => CodeBytes;
    private long GroupScaleBytes => Columns / Wint2.InputsPerScaleByte * Rows;
    /// <summary>int2: offset of code_scale [16], then code_zp [16].</summary>
    public long CodeScaleOffset => CodeBytes + GroupScaleBytes;
    /// <summary>int2: offset of super_scale [16].</summary>
    public long SuperScaleOffset => CodeScaleOffset + 2 * Rows * sizeof(float);

    public static long PanelCount(long rows) => (rows + Rows - 1) / Rows;

    /// <summary>int8: offset of the byte of one weight.</summary>
    public static long Code8(int row, long column) => column / 4 * LineBytes + row * 4 + column % 4;

    /// <summary>int4: offset of the byte of one weight, which is its high nibble where <see cref="IsHighNibble"/>.</summary>
    public static long Code4(int row, long column) => column / 8 * LineBytes + row * 4 + column % 4;
    public static bool IsHighNibble(long column) => column % 8 >= 4;

    /// <summary>int2: offset of the byte that holds one weight and its three neighbours.</summary>
    public static long Code2(int row, long column) => column / Wint2.InputsPerByte * Rows + row;

    /// <summary>Offset of the scale of one row's group.</summary>
    public long Scale(int row, long group) => ScaleOffset + (group * Rows + row) * (Format.Kind == WeightKind.Int2 ? 1 : Format.Group == 0 ? sizeof(float) : 2);
}
