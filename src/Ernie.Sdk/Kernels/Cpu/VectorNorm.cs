namespace Ernie.Sdk.Kernels;

//  Residual and RMS norm
//      x, a, b  [tokens, columns]   float     a and b, or b alone, may be missing
//      weight   [columns]           float
//      sum      [tokens, columns]   float     x + (a + b); may be missing
//      y        [tokens, columns]   float
//  Math       y = sum / sqrt(mean(sum²) + epsilon) · weight
//  Source     RMSNormalization of ONNX, opset 23
//  Reference  Kernels/Reference/ReferenceNorm.cs
//  Tolerance  2e-6 relative: squares are added in float, in sixteen lanes
internal static unsafe class VectorNorm<TLanes> where TLanes : unmanaged, ILanes<TLanes>
{
    private const int Lanes = LaneMath<TLanes>.Count;
    /// <summary>Fewer are not worth another thread.</summary>
    private const int RowsOfItem = 8;

    public static void Run(in AddRmsNormArguments arguments, in KernelContext context)
    {
        var a = arguments;
        if (a.TokenCount <= RowsOfItem)
        {
            for (var row = 0; row < a.TokenCount; row++) Row(a, row);
            return;
        }
        context.Parallel.For((a.TokenCount + RowsOfItem - 1) / RowsOfItem, item =>
        {
            for (var row = item * RowsOfItem; row < Math.Min(a.TokenCount, (item + 1) * RowsOfItem); row++) Row(a, row);
        });
    }

    private static void Row(in AddRmsNormArguments arguments, int row)
    {
        var columns = arguments.Columns;
        var first = (nint)row * columns;
        float* x = arguments.Input + first, y = arguments.Output + first, weight = arguments.Weight;
        // Who wants no sum has it where the norm comes to lie.
        var sum = arguments.Sum != null ? arguments.Sum + first : arguments.First != null ? y : null;
        var a = arguments.First == null ? null : arguments.First + first;
        var b = arguments.Second == null ? null : arguments.Second + first;
        var squares = TLanes.Zero;
        for (var c = 0; c < columns; c += Lanes)
        {
            var left = columns - c;
            var value = Load(x + c, left);
            if (a != null)
            {
                var added = Load(a + c, left);
                if (b != null) added = TLanes.Add(added, Load(b + c, left));
                value = TLanes.Add(value, added);
            }
            if (sum != null) Store(value, sum + c, left);
            squares = TLanes.MultiplyAdd(value, value, squares);
        }
        var scale = TLanes.Broadcast(1 / MathF.Sqrt(LaneMath<TLanes>.Sum(squares) / columns + arguments.Epsilon));
        var source = sum != null ? sum : x;
        for (var c = 0; c < columns; c += Lanes)
        {
            var left = columns - c;
            Store(TLanes.Multiply(TLanes.Multiply(Load(source + c, left), scale), Load(weight + c, left)), y + c, left);
        }
    }

    private static TLanes Load(float* source, int left) => left >= Lanes ? TLanes.Load(source) : LaneMath<TLanes>.LoadFirst(source, left, 0);

    private static void Store(TLanes value, float* target, int left)
    {
        if (left >= Lanes) TLanes.Store(value, target);
        else LaneMath<TLanes>.StoreFirst(value, target, left);
    }
}
