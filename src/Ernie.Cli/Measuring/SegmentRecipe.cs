namespace Ernie.Cli.Measuring;

/// <summary>
/// Queries, keys and values whose neighbours resemble one another, as a text's do: each is its segment's vector and some noise, and heads that share keys ask for similar ones. Sparse attention then
/// keeps few blocks, where independent random vectors would keep nearly all. A vector depends on its head and position only.
/// </summary>
internal sealed class SegmentRecipe(int heads, int kvHeads, int headDim, ulong seed)
{
    private const int QuerySegment = 128, KeySegment = 97;
    private const float QueryAmplitude = 8, KeyAmplitude = 2, ValueAmplitude = 2, QueryNoise = 0.08f, KeyNoise = 0.5f, Own = 0.4f;
    private readonly int _group = heads / kvHeads;

    private enum Part : ulong { QueryNoise = 1, QueryHead, QueryGroup, KeyNoise, KeySegment, Value }

    /// <summary>[heads + 2 · kvHeads, headDim] of one token, not rotated.</summary>
    public void Token(int position, Span<float> qkv)
    {
        for (var h = 0; h < heads; h++) Query(h, position, qkv.Slice(h * headDim, headDim));
        for (var h = 0; h < kvHeads; h++)
        {
            Key(h, position, qkv.Slice((heads + h) * headDim, headDim));
            Value(h, position, qkv.Slice((heads + kvHeads + h) * headDim, headDim));
        }
    }

    public void Query(int head, int position, Span<float> q)
    {
        for (var c = 0; c < q.Length; c++)
        {
            q[c] = QueryAmplitude * (QueryNoise * At(Part.QueryNoise, position, head, heads, c) + Own * At(Part.QueryHead, position / QuerySegment, head, heads, c)
                + At(Part.QueryGroup, position / QuerySegment, head / _group, kvHeads, c));
        }
    }

    public void Key(int kvHead, int position, Span<float> k)
    {
        for (var c = 0; c < k.Length; c++)
            k[c] = KeyAmplitude * (KeyNoise * At(Part.KeyNoise, position, kvHead, kvHeads, c) + At(Part.KeySegment, position / KeySegment, kvHead, kvHeads, c));
    }

    public void Value(int kvHead, int position, Span<float> v)
    {
        for (var c = 0; c < v.Length; c++) v[c] = ValueAmplitude * At(Part.Value, position, kvHead, kvHeads, c);
    }

    /// <summary>Uniform in [-0.5, 0.5): splitmix64 of the place.</summary>
    private float At(Part part, long row, int head, int rowHeads, int channel)
    {
        unchecked
        {
            var x = (seed << 8 | (ulong)part) * 0xD1342543DE82EF95 + (ulong)((row * rowHeads + head) * headDim + channel) + 0x9E3779B97F4A7C15;
            x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
            x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
            x ^= x >> 31;
            return (x >> 40) / 16777216f - 0.5f;
        }
    }
}
