using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Checkpoints;

public sealed class SyntheticWeightsTests
{
    /// <summary>A mean of half a step, small as it looks, adds up over the columns: every token would look alike and choose the same experts.</summary>
    [Theory]
    [InlineData("int4/128")]
    [InlineData("int4/channel")]
    public void Int4_HasNoMean(string name)
    {
        Assert.True(WeightFormat.TryParse(name, out var format));
        var tensor = new SyntheticWeights(ReleasedShapes.Small03B, seed: 0).Tensor(TensorNames.Gate(0));
        var layout = new PanelLayout(format, tensor.Columns);
        var panel = new byte[layout.PanelBytes];
        tensor.ReadPanels(layout, 0, PanelLayout.Rows, 0, panel);
        var codes = Enumerable.Range(0, PanelLayout.Rows).SelectMany(row => Enumerable.Range(0, (int)tensor.Columns).Select(column => PanelPacker.Code(layout, panel, row, column))).ToArray();
        // 16,384 codes with a deviation of 4.2: the mean's own is 0.03.
        Assert.InRange(codes.Average(), -0.15, 0.15);
        Assert.Equal(Enumerable.Range(-7, 15), codes.Distinct().Order());
    }
}
