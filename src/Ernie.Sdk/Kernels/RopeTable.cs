namespace Ernie.Sdk.Kernels;

/// <summary>
/// Cosines and sines of the rotation angles <c>p / compression · theta^(-2i/d)</c>, i = 0 .. d/2-1, computed in double and rounded once. Grows in pages as contexts grow:
/// the whole table of 131,072 positions would be 64 MB.
/// </summary>
/// <remarks>Call <see cref="Ensure"/> on one thread before <see cref="Row"/> is used by many.</remarks>
internal sealed class RopeTable(int headDim, double theta, double compression, int positionCount)
{
    private const int PageSize = 1024;
    private readonly float[]?[] _pages = new float[]?[(positionCount + PageSize - 1) / PageSize];
    private readonly double[] _frequencies = [.. Enumerable.Range(0, headDim / 2).Select(i => Math.Pow(theta, -2.0 * i / headDim) / compression)];

    public int PositionCount => positionCount;

    /// <summary>Computes the pages for positions 0 .. <paramref name="lastPosition"/>.</summary>
    public void Ensure(int lastPosition)
    {
        if ((uint)lastPosition >= (uint)positionCount)
            throw new ArgumentOutOfRangeException(nameof(lastPosition), lastPosition, $"The model has positions 0 to {positionCount - 1}.");
        for (var page = lastPosition / PageSize; page >= 0 && _pages[page] is null; page--) _pages[page] = Compute(page);
    }

    /// <summary>Pairs (cos, sin) of one position: [headDim / 2, 2].</summary>
    public ReadOnlySpan<float> Row(int position) => _pages[position / PageSize].AsSpan(position % PageSize * headDim, headDim);

    private float[] Compute(int page)
    {
        var values = new float[PageSize * headDim];
        for (var row = 0; row < PageSize; row++)
        {
            for (var i = 0; i < headDim / 2; i++)
            {
                var (sin, cos) = Math.SinCos((page * PageSize + row) * _frequencies[i]);
                values[row * headDim + 2 * i] = (float)cos;
                values[row * headDim + 2 * i + 1] = (float)sin;
            }
        }
        return values;
    }
}
