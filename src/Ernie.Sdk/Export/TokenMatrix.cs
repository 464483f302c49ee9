using System.Runtime.InteropServices;

namespace Ernie.Sdk.Export;

/// <summary>Activations [tokens, columns] of a calibration, in memory that is given back at once: garbage of this size would double what a calibration needs.</summary>
internal sealed unsafe class TokenMatrix : IDisposable
{
    private float* _data;

    public TokenMatrix(int tokens, int columns)
    {
        Tokens = tokens;
        Columns = columns;
        var count = checked((nuint)tokens * (nuint)columns);
        // Kernels may read, not use, a vector past the end.
        _data = (float*)NativeMemory.AlignedAlloc((count + 16) * sizeof(float), 64);
        NativeMemory.Clear(_data, (count + 16) * sizeof(float));
    }

    public int Tokens { get; }
    public int Columns { get; }
    /// <summary>The values, tokens one after another.</summary>
    public Span<float> Values => new(_data, checked(Tokens * Columns));
    /// <summary>First value; good until disposal.</summary>
    public float* Data => _data;

    public Span<float> Row(int token) => Values.Slice(token * Columns, Columns);

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

    public void Dispose()
    {
        NativeMemory.AlignedFree(_data);
        _data = null;
        GC.SuppressFinalize(this);
    }

    ~TokenMatrix() => NativeMemory.AlignedFree(_data);
}
