namespace Ernie.Sdk.Kernels;

//  Sums of the cached keys of a block and KV head, what sparse attention scores blocks by
//      keys   [8 tiles, headDim, 16]   cache type
//      gate   [128, headDim]           float, or none
//      sum    [headDim]                float
//  Math       Σ k[b, c] over the first positions;  Σ k[b, c] · gate[b, c]
//  Source     plain sums in sixteen lanes and a fixed tree, gated ones in order in double: the bits depend on the keys alone, not on the steps that brought them
//  Reference  Kernels/Reference/ReferenceAttention.cs
//  Tolerance  1e-5 of the largest sum
internal static unsafe class KeySums<TLanes, TCache>
    where TLanes : unmanaged, ILanes<TLanes>
    where TCache : unmanaged, ICacheElement
{
    private const int Lanes = LaneMath<TLanes>.Count;

    public static void Sum(KvBlockLayout layout, byte* block, int kvHead, int positions)
    {
        var sums = (float*)(block + layout.KeySum(kvHead));
        // Lanes past the last position hold what an earlier sequence left.
        var order = stackalloc float[Lanes];
        for (var i = 0; i < Lanes; i++) order[i] = i;
        var slots = TLanes.Load(order);
        for (var c = 0; c < layout.HeadDim; c++)
        {
            var sum = TLanes.Zero;
            for (var first = 0; first < positions; first += Lanes)
            {
                var k = Keys(layout, block, kvHead, first, c);
                if (positions - first < Lanes) k = TLanes.SelectLess(slots, TLanes.Broadcast(positions - first), k, TLanes.Zero);
                sum = TLanes.Add(sum, k);
            }
            sums[c] = LaneMath<TLanes>.Sum(sum);
        }
    }

    public static void Sum(KvBlockLayout layout, byte* block, int kvHead, int positions, float* gate)
    {
        var sums = (float*)(block + layout.GatedSum(kvHead));
        var keys = stackalloc float[Lanes];
        for (var c = 0; c < layout.HeadDim; c++)
        {
            double sum = 0;
            for (var first = 0; first < positions; first += Lanes)
            {
                TLanes.Store(Keys(layout, block, kvHead, first, c), keys);
                for (var i = 0; i < Math.Min(Lanes, positions - first); i++) sum += (double)keys[i] * gate[(nint)(first + i) * layout.HeadDim + c];
            }
            sums[c] = (float)sum;
        }
    }

    private static TLanes Keys(KvBlockLayout layout, byte* block, int kvHead, int first, int channel)
    {
        var k = TCache.Load<TLanes>(block + layout.Key(kvHead, first, channel));
        return TCache.IsScaled ? TLanes.Multiply(k, TLanes.Load((float*)(block + layout.KeyScale(kvHead, first)))) : k;
    }
}
