using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Kernels;

//  Router and experts
//      x        [tokens, hidden]                                    float
//      router   [experts, hidden], bias [experts]                   float
//      gateUp   [range · 2 · intermediate, hidden]                  float32 or bfloat16   per expert: gate rows, then up rows; packed formats go to PanelExperts
//      down     [range · hidden, intermediate]                      float32 or bfloat16
//      y        [tokens, hidden]                                    float
//  Math       Σ over the chosen experts inside the range, in rank order from zero by fused multiply-add, of w · down(silu(gate(x)) · up(x))
//  Source     tokens are grouped by expert, work items are (expert, range of rows): each weight is read once a chunk of tokens
//  Reference  Kernels/Reference/ReferenceExperts.cs
//  Tolerance  2e-5 + 2e-5 · |y| at hidden 2560; equal bits for any tokens, threads and instruction set
internal static unsafe class VectorExperts<TLanes> where TLanes : unmanaged, ILanes<TLanes>
{
    private const int Lanes = LaneMath<TLanes>.Count;
    private const int TokenTile = 16;
    /// <summary>Bound on the scratch of one chunk of tokens. At 21B's shape about 500 tokens, so that an expert has 45 of them and is no longer bound by memory.</summary>
    private const nint MaxScratchBytes = 48 << 20;

    public static void Run(in ExpertsArguments a, in KernelContext context)
    {
        if (a.GateUp.Format != a.Down.Format) throw new NotSupportedException("The vector kernels want one format for all weights of the experts.");
        if (a.TokenCount == 0) return;
        var chunk = (int)Math.Clamp(MaxScratchBytes / ExpertsScratch.Bytes(a, 1), 1, a.TokenCount);
        var memory = context.Scratch.Rent(ExpertsScratch.Bytes(a, chunk));
        for (var first = 0; first < a.TokenCount; first += chunk)
        {
            var part = a;
            part.TokenCount = Math.Min(chunk, a.TokenCount - first);
            part.Input += (nint)first * a.HiddenSize;
            part.Output += (nint)first * a.HiddenSize;
            if (a.Selected != null) part.Selected += (nint)first * a.ExpertsPerToken;
            if (a.Weights != null) part.Weights += (nint)first * a.ExpertsPerToken;
            Chunk(part, new ExpertsScratch(part, memory), context, first, a.TokenCount);
        }
    }

    private static void Chunk(ExpertsArguments a, ExpertsScratch scratch, in KernelContext context, int firstToken, int allTokens)
    {
        var parallel = context.Parallel;
        Route(a, scratch, parallel);
        for (var t = 0; t < a.TokenCount; t++)
        {
            // No expert: the row becomes zero.
            if (context.Rows.AreDead(firstToken + t, 1, allTokens)) new Span<int>(scratch.Selected + t * a.ExpertsPerToken, a.ExpertsPerToken).Fill(-1);
        }
        var groups = scratch.Assignments;
        groups.Group(scratch.Selected, a.TokenCount, a.ExpertsPerToken, a.ExpertBegin, a.ExpertEnd);
        if (groups.ActiveCount > 0)
        {
            if (a.GateUp.Format.IsPacked) PanelExperts<TLanes>.Run(a, scratch, groups, parallel);
            else if (a.GateUp.Format == WeightFormat.BFloat16) Run<BFloat16Element>(a, scratch, groups, parallel);
            else Run<Float32Element>(a, scratch, groups, parallel);
        }
        var tiles = (a.TokenCount + TokenTile - 1) / TokenTile;
        if (tiles == 1) Sum(a, scratch, groups, 0);
        else parallel.For(tiles, tile => Sum(a, scratch, groups, tile));
    }

    private static void Run<TWeight>(ExpertsArguments a, ExpertsScratch scratch, ExpertAssignments groups, IParallelRunner parallel) where TWeight : unmanaged, IElement
    {
        var perItem = VectorLinear<TLanes>.RowsPerItem((nint)groups.ActiveCount * a.IntermediateSize, parallel.ThreadCount);
        var items = (a.IntermediateSize + perItem - 1) / perItem;
        parallel.For(groups.ActiveCount * items, item =>
            GateUp<TWeight>(a, scratch, groups, groups.Active[item / items], item % items * perItem, perItem));

        var downPerItem = VectorLinear<TLanes>.RowsPerItem((nint)groups.ActiveCount * a.HiddenSize, parallel.ThreadCount);
        var downItems = (a.HiddenSize + downPerItem - 1) / downPerItem;
        parallel.For(groups.ActiveCount * downItems, item =>
            Down<TWeight>(a, scratch, groups, groups.Active[item / downItems], item % downItems * downPerItem, downPerItem));
    }

    private static void Route(ExpertsArguments a, ExpertsScratch scratch, IParallelRunner parallel)
    {
        if (a.Router == null)
        {
            var choices = a.TokenCount * a.ExpertsPerToken;
            new ReadOnlySpan<int>(a.Selected, choices).CopyTo(new Span<int>(scratch.Selected, choices));
            new ReadOnlySpan<float>(a.Weights, choices).CopyTo(new Span<float>(scratch.Weights, choices));
            return;
        }
        VectorLinear<TLanes>.Run<Float32Element>(new LinearArguments
        {
            Input = a.Input,
            TokenCount = a.TokenCount,
            Weight = new PackedMatrix(WeightFormat.Float32, (byte*)a.Router, a.ExpertCount, a.HiddenSize),
            Output = scratch.Logits,
        }, parallel);

        var tiles = (a.TokenCount + TokenTile - 1) / TokenTile;
        if (tiles == 1) Route(a, scratch, 0);
        else parallel.For(tiles, tile => Route(a, scratch, tile));
    }

    private static void Route(in ExpertsArguments a, in ExpertsScratch scratch, int tile)
    {
        var k = a.ExpertsPerToken;
        for (var t = tile * TokenTile; t < Math.Min(a.TokenCount, (tile + 1) * TokenTile); t++)
        {
            var selected = new Span<int>(scratch.Selected + t * k, k);
            var weights = new Span<float>(scratch.Weights + t * k, k);
            VectorRouter<TLanes>.Route(scratch.Logits + (nint)t * a.ExpertCount, a.ExpertCount, a.CorrectionBias, a.NormMin, selected, weights);
            if (a.Selected != null) selected.CopyTo(new Span<int>(a.Selected + (nint)t * k, k));
            if (a.Weights != null) weights.CopyTo(new Span<float>(a.Weights + (nint)t * k, k));
        }
    }

    /// <summary>Rows of silu(gate) · up of one expert, for all its tokens.</summary>
    private static void GateUp<TWeight>(in ExpertsArguments a, in ExpertsScratch scratch, in ExpertAssignments groups, int expert, int firstRow, int maxRows)
        where TWeight : unmanaged, IElement
    {
        var rows = Math.Min(maxRows, a.IntermediateSize - firstRow);
        var gateRow = (nint)expert * 2 * a.IntermediateSize + firstRow;
        var inputs = stackalloc float*[TokenTile];
        for (var slot = groups.Starts[expert]; slot < groups.Starts[expert + 1]; slot += TokenTile)
        {
            var tokens = Math.Min(TokenTile, groups.Starts[expert + 1] - slot);
            for (var t = 0; t < tokens; t++) inputs[t] = a.Input + (nint)groups.Tokens[slot + t] * a.HiddenSize;
            var output = scratch.Activations + (nint)slot * a.IntermediateSize + firstRow;
            VectorLinear<TLanes>.SwiGlu<TWeight>(a.GateUp, gateRow, gateRow + a.IntermediateSize, rows, inputs, tokens, output, a.IntermediateSize);
        }
    }

    private static void Down<TWeight>(in ExpertsArguments a, in ExpertsScratch scratch, in ExpertAssignments groups, int expert, int firstRow, int maxRows)
        where TWeight : unmanaged, IElement
    {
        var rows = Math.Min(maxRows, a.HiddenSize - firstRow);
        var weight = a.Down.Row((nint)expert * a.HiddenSize + firstRow);
        var inputs = stackalloc float*[TokenTile];
        for (var slot = groups.Starts[expert]; slot < groups.Starts[expert + 1]; slot += TokenTile)
        {
            var tokens = Math.Min(TokenTile, groups.Starts[expert + 1] - slot);
            for (var t = 0; t < tokens; t++) inputs[t] = scratch.Activations + (nint)(slot + t) * a.IntermediateSize;
            var output = scratch.Outputs + (nint)slot * a.HiddenSize + firstRow;
            DotTiles<TLanes, TWeight>.Products(weight, a.Down.RowBytes, rows, inputs, tokens, a.IntermediateSize, output, a.HiddenSize);
        }
    }

    private static void Sum(in ExpertsArguments a, in ExpertsScratch scratch, in ExpertAssignments groups, int tile)
    {
        for (var t = tile * TokenTile; t < Math.Min(a.TokenCount, (tile + 1) * TokenTile); t++)
        {
            var output = a.Output + (nint)t * a.HiddenSize;
            for (var n = 0; n < a.HiddenSize; n += Lanes)
            {
                var left = a.HiddenSize - n;
                var sum = TLanes.Zero;
                for (var i = t * a.ExpertsPerToken; i < (t + 1) * a.ExpertsPerToken; i++)
                {
                    if (groups.Slots[i] < 0) continue;
                    // Past the last slot's row lies the scratch's padding; those lanes are not stored.
                    var expert = TLanes.Load(scratch.Outputs + (nint)groups.Slots[i] * a.HiddenSize + n);
                    sum = TLanes.MultiplyAdd(TLanes.Broadcast(scratch.Weights[i]), expert, sum);
                }
                if (left >= Lanes) TLanes.Store(sum, output + n);
                else LaneMath<TLanes>.StoreFirst(sum, output + n, left);
            }
        }
    }
}
