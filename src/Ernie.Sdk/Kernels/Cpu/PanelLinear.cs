using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Kernels;

//  Linear of packed weights
//      x    [tokens, K]                          float, quantised once a call
//      W    [N, K]                               panels of int8, int4 or int2; SwiGLU: gate panels, then up panels
//      y    [tokens, N], SwiGLU [tokens, N / 2]  float
//  Math       PanelTiles; SwiGLU: silu(gate) · up per element
//  Source     work items are ranges of panels; an item passes over its panels once for every 32 tokens
//  Reference  Kernels/Reference/ReferenceLinear.cs
//  Tolerance  1e-5 + 1e-5 · |y| at K = 4096 and |W · x| of order 1; equal bits for any tokens, threads and instruction set
internal static unsafe class PanelLinear<TLanes> where TLanes : unmanaged, ILanes<TLanes>
{
    private const int TokenTile = 32;
    private const int Lanes = PanelLayout.Rows;

    public static void Run(LinearArguments a, in KernelContext context)
    {
        if (a.TokenCount == 0) return;
        var layout = a.Weight.Layout;
        var offset = Offset(a.Weight.Format);
        var rowBytes = ActivationRow.Bytes(a.Weight.Columns);
        var x = context.Scratch.Rent(a.TokenCount * rowBytes);
        Quantize(a.Input, a.TokenCount, layout, offset, x, context.Parallel);

        var panels = (int)PanelLayout.PanelCount(a.OutputSize);
        var perItem = PanelsPerItem(panels, context.Parallel.ThreadCount);
        var live = context.Rows;
        context.Parallel.For((panels + perItem - 1) / perItem, item =>
        {
            var first = item * perItem;
            var last = Math.Min(panels, first + perItem);
            var rows = stackalloc byte*[TokenTile];
            for (var token = 0; token < a.TokenCount; token += TokenTile)
            {
                var tokens = Math.Min(TokenTile, a.TokenCount - token);
                if (live.AreDead(token, tokens, a.TokenCount)) continue;
                for (var t = 0; t < tokens; t++) rows[t] = x + (token + t) * rowBytes;
                var output = a.Output + token * a.OutputSize;
                if (!a.SwiGlu)
                {
                    Plain(a.Weight, (nint)first * Lanes, (int)Math.Min((last - first) * Lanes, a.OutputSize - (nint)first * Lanes), rows, tokens, output + (nint)first * Lanes, a.OutputSize);
                    continue;
                }
                for (var panel = first; panel < last; panel++)
                {
                    var row = (nint)panel * Lanes;
                    SwiGlu(a.Weight, row, a.OutputSize + row, rows, tokens, output + row, a.OutputSize, (int)Math.Min(Lanes, a.OutputSize - row));
                }
            }
        });
    }

    /// <summary>What is subtracted from a format's codes.</summary>
    public static int Offset(WeightFormat format) => format.Kind switch
    {
        WeightKind.Int8 => Int8Panels.Offset,
        WeightKind.Int4 => Int4Panels.Offset,
        _ => Int2CommonPanels.Offset,
    };

    /// <summary>Panels of a work item: about four items a thread, within limits.</summary>
    public static int PanelsPerItem(int panels, int threadCount) => Math.Clamp((panels + 4 * threadCount - 1) / (4 * threadCount), 2, 16);

    /// <summary>x [tokens, columns] as <see cref="ActivationRow"/>s.</summary>
    public static void Quantize(float* x, int tokenCount, PanelLayout layout, int offset, byte* rows, IParallelRunner parallel)
    {
        const int perItem = 16;
        var rowBytes = ActivationRow.Bytes((nint)layout.Columns);
        if (tokenCount <= perItem) Part(0);
        else parallel.For((tokenCount + perItem - 1) / perItem, Part);

        void Part(int item)
        {
            for (var t = item * perItem; t < Math.Min(tokenCount, (item + 1) * perItem); t++)
                ActivationRow.Quantize(x + t * (nint)layout.Columns, layout, offset, rows + t * rowBytes);
        }
    }

    /// <summary>Rows of neighbouring panels, from a panel's first one on, of at most 32 tokens: output[t, 0 .. count-1], <paramref name="stride"/> apart.</summary>
    public static void Plain(in PackedMatrix weight, nint firstRow, int count, byte** rows, int tokenCount, float* output, nint stride)
    {
        var y = stackalloc float[TokenTile * Lanes];
        for (var row = 0; row < count; row += Lanes)
        {
            Products(weight.Panel(firstRow + row), weight.Layout, rows, tokenCount, y);
            for (var t = 0; t < tokenCount; t++) Put(TLanes.Load(y + t * Lanes), output + t * stride + row, Math.Min(Lanes, count - row));
        }
    }

    /// <summary>A gate panel and its up panel: output[t, r] = silu(gate) · up.</summary>
    public static void SwiGlu(in PackedMatrix weight, nint gateRow, nint upRow, byte** rows, int tokenCount, float* output, nint stride, int width)
    {
        var gate = stackalloc float[2 * TokenTile * Lanes];
        var up = gate + TokenTile * Lanes;
        Products(weight.Panel(gateRow), weight.Layout, rows, tokenCount, gate);
        Products(weight.Panel(upRow), weight.Layout, rows, tokenCount, up);
        for (var t = 0; t < tokenCount; t++) Put(LaneMath<TLanes>.SwiGlu(TLanes.Load(gate + t * Lanes), TLanes.Load(up + t * Lanes)), output + t * stride, width);
    }

    private static void Put(TLanes value, float* output, int width)
    {
        if (width == Lanes) TLanes.Store(value, output);
        else LaneMath<TLanes>.StoreFirst(value, output, width);
    }

    private static void Products(byte* panel, in PanelLayout layout, byte** rows, int tokenCount, float* y)
    {
        switch (layout.Format.Kind)
        {
            case WeightKind.Int8:
                PanelTiles<TLanes, Int8Panels>.Products(panel, layout, rows, tokenCount, y);
                break;
            case WeightKind.Int4:
                PanelTiles<TLanes, Int4Panels>.Products(panel, layout, rows, tokenCount, y);
                break;
            default:
                if (Int2CommonPanels.Reads(panel + layout.CodeScaleOffset)) PanelTiles<TLanes, Int2CommonPanels>.Products(panel, layout, rows, tokenCount, y);
                else PanelTiles<TLanes, Int2ColumnPanels>.Products(panel, layout, rows, tokenCount, y);
                break;
        }
    }
}
