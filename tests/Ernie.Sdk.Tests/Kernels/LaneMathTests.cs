using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Kernels;

public sealed class LaneMathTests
{
    [Fact]
    public void Exp_IsWithinTwoUnits()
    {
        for (var x = -87.3f; x < 88.7f; x += 0.0137f)
        {
            var expected = Math.Exp(x);
            Assert.Equal(1, LaneMath<Lanes128>.Exp(x) / expected, 2.5e-7);
        }
    }

    [Fact]
    public void Exp_OfSpecialValues()
    {
        Assert.Equal(1f, LaneMath<Lanes128>.Exp(0));
        Assert.Equal(0f, LaneMath<Lanes128>.Exp(float.NegativeInfinity));
        Assert.Equal(0f, LaneMath<Lanes128>.Exp(-88));
        Assert.Equal(float.PositiveInfinity, LaneMath<Lanes128>.Exp(89));
        Assert.True(float.IsNaN(LaneMath<Lanes128>.Exp(float.NaN)));
    }
}
