namespace Ernie.Sdk.Export;

/// <summary>Activations [tokens, columns] of a calibration. Pinned, because kernels take pointers.</summary>
internal sealed unsafe class TokenMatrix
{
    private readonly float[] _values;

    public TokenMatrix(int tokens, int columns)
    {
        Tokens = tokens;
        Columns = columns;
        _values = GC.AllocateArray<float>(checked(tokens * columns), pinned: true);
    }

    public int Tokens { get; }
    public int Columns { get; }
    /// <summary>The values, tokens one after another.</summary>
    public Span<float> Values => _values;
    /// <summary>First value; good as long as the matrix is reachable.</summary>
    public float* Data => (float*)System.Runtime.InteropServices.Marshal.UnsafeAddrOfPinnedArrayElement(_values, 0);

    public Span<float> Row(int token) => _values.AsSpan(token * Columns, Columns);

    public TokenMatrix Copy()
    {
        var copy = new TokenMatrix(Tokens, Columns);
        Values.CopyTo(copy.Values);
        return copy;
    }

    /// <summary>The rows of some tokens, one after another.</summary>
    public TokenMatrix Gather(ReadOnlySpan<int> tokens)
    {
        var rows = new TokenMatrix(tokens.Length, Columns);
        for (var i = 0; i < tokens.Length; i++) Row(tokens[i]).CopyTo(rows.Row(i));
        return rows;
    }
}
