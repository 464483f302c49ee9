using Ernie.Sdk.Quantization;

namespace Ernie.Cli.Measuring.Layers;

/// <summary>
/// Integer weights as MatMulNBits and QMoE read them: codes [sections, rows, columns · bits / 8] of q + 2^(bits-1), the lower nibble first, and float scales [sections, rows, columns / block].
/// </summary>
/// <remarks><c>place</c> tells where a row of a section goes, where not one after another.</remarks>
internal sealed unsafe class OrtMatrix(WeightFormat format, int sections, int rows, int columns, Func<int, int, int>? place = null) : IDisposable
{
    private readonly int _bits = format.Kind == WeightKind.Int4 ? 4 : 8;

    public NativeMemoryBlock Codes { get; } = new((nint)sections * rows * columns * (format.Kind == WeightKind.Int4 ? 4 : 8) / 8);
    public NativeMemoryBlock Scales { get; } = new((nint)sections * rows * (columns / format.Group) * sizeof(float));

    /// <summary>Takes one row of <see cref="RandomWeights"/>.</summary>
    public void Store(int section, int row, ReadOnlySpan<sbyte> codes, ReadOnlySpan<float> scales)
    {
        var at = place is null ? (nint)section * rows + row : place(section, row);
        var target = new Span<byte>(Codes.Pointer + at * columns * _bits / 8, columns * _bits / 8);
        if (_bits == 8)
        {
            for (var i = 0; i < target.Length; i++) target[i] = (byte)(codes[i] + 128);
        }
        else
        {
            for (var i = 0; i < target.Length; i++) target[i] = (byte)((codes[2 * i] + 8) | (codes[2 * i + 1] + 8) << 4);
        }
        scales.CopyTo(new Span<float>(Scales.Floats + at * scales.Length, scales.Length));
    }

    public void Dispose()
    {
        Codes.Dispose();
        Scales.Dispose();
    }
}
