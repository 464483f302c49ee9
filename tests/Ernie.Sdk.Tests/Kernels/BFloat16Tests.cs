using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Kernels;

public sealed class BFloat16Tests
{
    [Theory]
    [InlineData(0x3F808000u, 0x3F80)] // a tie goes to the even neighbour, down
    [InlineData(0x3F818000u, 0x3F82)] // and up
    [InlineData(0x3F808001u, 0x3F81)]
    [InlineData(0x3F807FFFu, 0x3F80)]
    [InlineData(0x7F7FFFFFu, 0x7F80)] // the largest float is beyond the largest bfloat16
    [InlineData(0x80000000u, 0x8000)]
    [InlineData(0x7F800000u, 0x7F80)]
    public void FromSingle_RoundsToNearestEven(uint bits, int expected) => Assert.Equal(expected, BFloat16.FromSingle(BitConverter.UInt32BitsToSingle(bits)));

    [Fact]
    public void NaN_StaysNaN() => Assert.True(float.IsNaN(BFloat16.ToSingle(BFloat16.FromSingle(BitConverter.UInt32BitsToSingle(0x7F800001)))));
}
