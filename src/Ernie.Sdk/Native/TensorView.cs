namespace Ernie.Sdk.Native;

/// <summary>A tensor that ONNX Runtime owns, borrowed for the length of a call (initializers: for the life of the session).</summary>
internal readonly unsafe struct TensorView(void* data, long* dimensions, int rank, TensorElementKind kind)
{
    public void* Data { get; } = data;
    public int Rank { get; } = rank;
    public TensorElementKind Kind { get; } = kind;
    /// <summary>False for an optional input that the graph leaves out.</summary>
    public bool IsPresent { get; } = true;
    public ReadOnlySpan<long> Shape => new(dimensions, Rank);
    public long this[int dimension] => dimensions[dimension];

    public long Count
    {
        get
        {
            long count = 1;
            foreach (var size in Shape) count *= size;
            return count;
        }
    }

    internal static TensorView Of(nint value)
    {
        void* data;
        int kind;
        long* dimensions;
        nuint rank;
        Ort.Check(((delegate* unmanaged<nint, void**, nint>)Ort.Api->GetTensorMutableData)(value, &data));
        Ort.Check(((delegate* unmanaged<nint, int*, long**, nuint*, nint>)Ort.Api->GetTensorElementTypeAndShapeDataReference)(value, &kind, &dimensions, &rank));
        return new TensorView(data, dimensions, (int)rank, (TensorElementKind)kind);
    }
}
