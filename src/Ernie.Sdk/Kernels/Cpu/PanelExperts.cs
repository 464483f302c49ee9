using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Kernels;

//  Routed experts of packed weights, after the router
//      x        [tokens, hidden]                                    float, quantised once a token
//      gateUp   [range · 2 · intermediate, hidden]                  panels   per expert: gate panels, then up panels
//      down     [range · hidden, intermediate]                      panels
//      outputs  [slots, hidden]                                     float
//  Math       PanelTiles; silu(gate) · up leaves an item quantised, in blocks of 32
//  Source     tokens are grouped by expert, work items are (expert, range of panels), experts with many tokens first
//  Reference  Kernels/Reference/ReferenceExperts.cs
//  Tolerance  2e-5 + 2e-5 · |y| at hidden 2560; equal bits for any tokens, threads and instruction set
internal static unsafe class PanelExperts<TLanes> where TLanes : unmanaged, ILanes<TLanes>
{
    private const int TokenTile = 32;
    private const int Lanes = PanelLayout.Rows;
    private const int PanelsPerBlock = PanelLayout.BlockColumns / Lanes;
    private const int MaxPanels = 16;

    public static void Run(ExpertsArguments a, ExpertsScratch scratch, ExpertAssignments groups, IParallelRunner parallel)
    {
        PanelLinear<TLanes>.Quantize(a.Input, a.TokenCount, a.GateUp.Layout, PanelLinear<TLanes>.Offset(a.GateUp.Format), scratch.Input, parallel);

        var panels = (int)PanelLayout.PanelCount(a.IntermediateSize);
        // A block of the activations needs its 32 rows in one item.
        var perItem = (PanelsPerItem(groups.ActiveCount, panels, parallel.ThreadCount) + PanelsPerBlock - 1) / PanelsPerBlock * PanelsPerBlock;
        var items = (panels + perItem - 1) / perItem;
        parallel.For(groups.ActiveCount * items, item => GateUp(a, scratch, groups, groups.Active[item / items], item % items * perItem, perItem));

        var slots = groups.Starts[a.ExpertEnd - a.ExpertBegin];
        var downLayout = a.Down.Layout;
        var rowBytes = ActivationRow.Bytes(a.IntermediateSize);
        for (var slot = 0; slot < slots; slot++) ActivationRow.SumGroups(scratch.QuantizedActivations + slot * rowBytes, downLayout);

        var downPanels = (int)PanelLayout.PanelCount(a.HiddenSize);
        var downPerItem = PanelsPerItem(groups.ActiveCount, downPanels, parallel.ThreadCount);
        var downItems = (downPanels + downPerItem - 1) / downPerItem;
        parallel.For(groups.ActiveCount * downItems, item => Down(a, scratch, groups, groups.Active[item / downItems], item % downItems * downPerItem, downPerItem));
    }

    /// <summary>Panels of a work item when some experts of <paramref name="panels"/> panels are shared by some threads.</summary>
    private static int PanelsPerItem(int experts, int panels, int threadCount) =>
        Math.Min(PanelLinear<TLanes>.PanelsPerItem((int)Math.Min(int.MaxValue, (long)experts * panels), threadCount), MaxPanels);

    /// <summary>Rows of silu(gate) · up of one expert, for all its tokens, quantised.</summary>
    private static void GateUp(in ExpertsArguments a, in ExpertsScratch scratch, in ExpertAssignments groups, int expert, int firstPanel, int maxPanels)
    {
        var firstRow = firstPanel * Lanes;
        var count = Math.Min(maxPanels * Lanes, a.IntermediateSize - firstRow);
        var gateRow = (nint)expert * 2 * a.IntermediateSize + firstRow;
        var inputBytes = ActivationRow.Bytes(a.HiddenSize);
        var outputBytes = ActivationRow.Bytes(a.IntermediateSize);
        var offset = PanelLinear<TLanes>.Offset(a.Down.Format);
        var rows = stackalloc byte*[TokenTile];
        // [tokens, rows of the item]
        var activations = stackalloc float[TokenTile * MaxPanels * Lanes];
        for (var slot = groups.Starts[expert]; slot < groups.Starts[expert + 1]; slot += TokenTile)
        {
            var tokens = Math.Min(TokenTile, groups.Starts[expert + 1] - slot);
            for (var t = 0; t < tokens; t++) rows[t] = scratch.Input + groups.Tokens[slot + t] * inputBytes;
            for (var row = 0; row < count; row += Lanes)
                PanelLinear<TLanes>.SwiGlu(a.GateUp, gateRow + row, gateRow + a.IntermediateSize + row, rows, tokens, activations + row, MaxPanels * Lanes, Math.Min(Lanes, count - row));
            for (var t = 0; t < tokens; t++)
            {
                var records = scratch.QuantizedActivations + (slot + t) * outputBytes + firstRow / PanelLayout.BlockColumns * ActivationRow.RecordBytes;
                ActivationRow.QuantizeBlocks(activations + t * MaxPanels * Lanes, count, offset, records);
            }
        }
    }

    private static void Down(in ExpertsArguments a, in ExpertsScratch scratch, in ExpertAssignments groups, int expert, int firstPanel, int maxPanels)
    {
        var firstRow = firstPanel * Lanes;
        var count = Math.Min(maxPanels * Lanes, a.HiddenSize - firstRow);
        var inputBytes = ActivationRow.Bytes(a.IntermediateSize);
        var rows = stackalloc byte*[TokenTile];
        for (var slot = groups.Starts[expert]; slot < groups.Starts[expert + 1]; slot += TokenTile)
        {
            var tokens = Math.Min(TokenTile, groups.Starts[expert + 1] - slot);
            for (var t = 0; t < tokens; t++) rows[t] = scratch.QuantizedActivations + (slot + t) * inputBytes;
            var output = scratch.Outputs + (nint)slot * a.HiddenSize + firstRow;
            PanelLinear<TLanes>.Plain(a.Down, (nint)expert * a.HiddenSize + firstRow, count, rows, tokens, output, a.HiddenSize);
        }
    }
}
