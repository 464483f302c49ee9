using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Kernels;

public sealed class RopeTableTests
{
    [Theory]
    [InlineData(128, 500_000, 1)]
    [InlineData(16, 10_000, 2)]
    public void Row_IsTheDirectDoubleRoundedOnce(int headDim, double theta, double compression)
    {
        var table = new RopeTable(headDim, theta, compression, 131_072);
        foreach (var position in new[] { 0, 1, 1023, 1024, 5000, 131_071 })
        {
            table.Ensure(position);
            var row = table.Row(position);
            for (var i = 0; i < headDim / 2; i++)
            {
                var angle = position / compression * Math.Pow(theta, -2.0 * i / headDim);
                Assert.Equal(Math.Cos(angle), row[2 * i], 1e-7);
                Assert.Equal(Math.Sin(angle), row[2 * i + 1], 1e-7);
            }
        }
    }

    [Fact]
    public void Ensure_BeyondTheModelsPositions_Throws() => Assert.Throws<ArgumentOutOfRangeException>(() => new RopeTable(16, 10_000, 1, 100).Ensure(100));
}
