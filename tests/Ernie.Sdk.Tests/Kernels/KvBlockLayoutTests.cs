using CsCheck;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Kernels;

public sealed class KvBlockLayoutTests
{
    [Fact]
    public void Offsets_AreDistinctAndInsideTheBlock() =>
        Gen.Select(Gen.Int[0, 2], Gen.Int[1, 6], Gen.Int[1, 40]).Sample((type, kvHeads, headDim) =>
        {
            var layout = new KvBlockLayout((KvElementType)type, kvHeads, headDim);
            var used = new bool[layout.BlockBytes];
            void Take(nint offset, int bytes)
            {
                for (var i = 0; i < bytes; i++)
                {
                    Assert.False(used[offset + i]);
                    used[offset + i] = true;
                }
            }
            for (var h = 0; h < kvHeads; h++)
            {
                for (var p = 0; p < KvBlockLayout.BlockSize; p++)
                {
                    for (var c = 0; c < headDim; c++)
                    {
                        Take(layout.Key(h, p, c), layout.ElementBytes);
                        Take(layout.Value(h, p) + c * layout.ElementBytes, layout.ElementBytes);
                        Assert.Equal(layout.Key(h, p, 0) + c * layout.KeyChannelStride, layout.Key(h, p, c));
                        Assert.Equal(layout.KeyTile(h, p / KvBlockLayout.TileSize) + (c * KvBlockLayout.TileSize + p % KvBlockLayout.TileSize) * layout.ElementBytes, layout.Key(h, p, c));
                    }
                }
                for (var c = 0; c < headDim; c++)
                {
                    Take(layout.KeySum(h) + c * sizeof(float), sizeof(float));
                    Take(layout.GatedSum(h) + c * sizeof(float), sizeof(float));
                }
                for (var p = 0; layout.HasScales && p < KvBlockLayout.BlockSize; p++)
                {
                    Take(layout.KeyScale(h, p), sizeof(float));
                    Take(layout.ValueScale(h, p), sizeof(float));
                    Assert.Equal(layout.KeyScale(h, 0) + p * sizeof(float), layout.KeyScale(h, p));
                }
            }
            Assert.Equal(0, layout.BlockBytes % 4096);
        }, seed: "0N0XIzNsQ0O2", iter: 60, threads: 1);

    [Fact]
    public void Values_AreReadableInWholeLanes() =>
        Gen.Select(Gen.Int[0, 2], Gen.Int[1, 64], Gen.Int[1, 256]).Sample((type, kvHeads, headDim) =>
        {
            // Kernels read a value row in steps of 16 elements; the last row's surplus must lie in the scales, the sums and the padding.
            var layout = new KvBlockLayout((KvElementType)type, kvHeads, headDim);
            var end = layout.Value(kvHeads - 1, KvBlockLayout.BlockSize - 1) + (headDim + 15) / 16 * 16 * layout.ElementBytes;
            Assert.True(end <= layout.BlockBytes);
        }, seed: "0N0XIzNsQ0O2", iter: 5000, threads: 1);

    [Theory]
    [InlineData(KvElementType.Float32, 4, 516)]
    [InlineData(KvElementType.BFloat16, 4, 260)]
    [InlineData(KvElementType.Int8, 4, 136)]
    [InlineData(KvElementType.BFloat16, 2, 132)]
    internal void Sums_FitTheLastPage(KvElementType type, int kvHeads, int kibibytes) => Assert.Equal(kibibytes << 10, new KvBlockLayout(type, kvHeads, 128).BlockBytes);
}
