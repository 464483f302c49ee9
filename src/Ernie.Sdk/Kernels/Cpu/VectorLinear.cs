using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Kernels;

//  Linear
//      x    [tokens, K]                          float
//      W    [N, K]                               float32 or bfloat16; packed formats go to PanelLinear
//      y    [tokens, N], SwiGLU [tokens, N / 2]  float
//  Math       y = x · Wᵀ;  SwiGLU: silu(x · Wᵀ first half) · (x · Wᵀ second half), per element
//  Source     DotTiles has the order of additions; work items are ranges of rows, every item reads its weights once for 16 tokens
//  Reference  Kernels/Reference/ReferenceLinear.cs
//  Tolerance  1e-5 + 1e-5 · |y| at K = 4096 and |W · x| of order 1; equal bits for any tokens, threads and instruction set
internal static unsafe class VectorLinear<TLanes> where TLanes : unmanaged, ILanes<TLanes>
{
    /// <summary>Rows of a work item: 64 rows of 2560 bfloat16 stay in a second-level cache while a prefill passes over them.</summary>
    private const int MaxRows = 64;
    private const int MinRows = 16;
    /// <summary>Tokens whose inputs stay in cache while an item's rows pass over them.</summary>
    private const int TokenTile = 16;

    public static void Run(in LinearArguments arguments, in KernelContext context)
    {
        if (arguments.Weight.Format.IsPacked) PanelLinear<TLanes>.Run(arguments, context);
        else if (arguments.Weight.Format == WeightFormat.BFloat16) Run<BFloat16Element>(arguments, context.Parallel, context.Rows);
        else Run<Float32Element>(arguments, context.Parallel, context.Rows);
    }

    /// <summary>Rows of a work item when <paramref name="rows"/> rows are shared by some threads: about four items a thread, within limits.</summary>
    public static int RowsPerItem(nint rows, int threadCount)
    {
        var share = (rows + 4 * threadCount - 1) / (4 * threadCount);
        return (int)Math.Clamp((share + 3) / 4 * 4, MinRows, MaxRows);
    }

    public static void Run<TWeight>(LinearArguments a, IParallelRunner parallel, LiveRows live = default) where TWeight : unmanaged, IElement
    {
        if (a.TokenCount == 0) return;
        var rowCount = a.OutputSize;
        var perItem = RowsPerItem(rowCount, parallel.ThreadCount);
        parallel.For(checked((int)((rowCount + perItem - 1) / perItem)), item =>
        {
            var first = (nint)item * perItem;
            Rows<TWeight>(a, live, first, (int)Math.Min(perItem, rowCount - first));
        });
    }

    private static void Rows<TWeight>(in LinearArguments a, in LiveRows live, nint firstRow, int rowCount) where TWeight : unmanaged, IElement
    {
        var columns = a.Weight.Columns;
        var inputs = stackalloc float*[TokenTile];
        for (var first = 0; first < a.TokenCount; first += TokenTile)
        {
            var tokens = Math.Min(TokenTile, a.TokenCount - first);
            if (live.AreDead(first, tokens, a.TokenCount)) continue;
            for (var t = 0; t < tokens; t++) inputs[t] = a.Input + (first + t) * columns;
            var output = a.Output + first * a.OutputSize + firstRow;
            if (a.SwiGlu) SwiGlu<TWeight>(a.Weight, firstRow, a.OutputSize + firstRow, rowCount, inputs, tokens, output, a.OutputSize);
            else DotTiles<TLanes, TWeight>.Products(a.Weight.Row(firstRow), a.Weight.RowBytes, rowCount, inputs, tokens, columns, output, a.OutputSize);
        }
    }

    /// <summary>
    /// Gate rows and up rows of at most 16 tokens: output[t, r] = silu(gate) · up. <paramref name="rowCount"/> is at most what <see cref="RowsPerItem"/> gives.
    /// </summary>
    public static void SwiGlu<TWeight>(in PackedMatrix weight, nint gateRow, nint upRow, int rowCount, float** inputs, int tokenCount, float* output, nint outputStride)
        where TWeight : unmanaged, IElement
    {
        // [tokens, rows]
        var gate = stackalloc float[TokenTile * MaxRows];
        var up = stackalloc float[TokenTile * MaxRows];
        DotTiles<TLanes, TWeight>.Products(weight.Row(gateRow), weight.RowBytes, rowCount, inputs, tokenCount, weight.Columns, gate, MaxRows);
        DotTiles<TLanes, TWeight>.Products(weight.Row(upRow), weight.RowBytes, rowCount, inputs, tokenCount, weight.Columns, up, MaxRows);
        for (var t = 0; t < tokenCount; t++) LaneMath<TLanes>.SwiGlu(gate + t * MaxRows, up + t * MaxRows, output + t * outputStride, rowCount);
    }
}
