using Ernie.Sdk.Operators;

namespace Ernie.Sdk.Tests.Operators;

public sealed class ExpertLoadTests
{
    [Fact]
    public void Add_CountsChoices_AndSharesSumToExpertsPerToken()
    {
        var layer = new LayerLoad(1, "node", 4);
        layer.Add([0, 1, 0, 2, 0, 1], 3);
        layer.Add([3, 0], 1);
        Assert.Equal([4L, 2, 1, 1], Enumerable.Range(0, 4).Select(layer.Chosen));
        Assert.Equal(4, layer.Tokens);
        Assert.Equal(2, Enumerable.Range(0, 4).Sum(layer.Share), 1e-12);
        Assert.Equal(4 * layer.Share(0) / 2, layer.Imbalance(), 1e-12);
    }

    [Fact]
    public void Share_FollowsAChangeOfLoad_AndForgetsByTheWindow()
    {
        var layer = new LayerLoad(1, "node", 2);
        for (var i = 0; i < 100; i++) layer.Add([0], 1);
        Assert.Equal(1, layer.Share(0), 1e-12);
        // One window of other tokens, in steps of any size, leaves 1/e of what was before it.
        var before = 100.0;
        var kept = (1 - Math.Exp(-before / LayerLoad.WindowTokens)) / Math.Exp(1);
        for (var i = 0; i < LayerLoad.WindowTokens; i++) layer.Add([1], 1);
        Assert.Equal(kept / (1 - Math.Exp(-1) + kept), layer.Share(0), 1e-3);
    }

    [Fact]
    public void IndexOf_FindsLayersByNode()
    {
        var load = new ExpertLoad([(2, "two"), (5, "five")], 8, 2);
        Assert.Equal([0, 1, -1], new[] { "two", "five", "six" }.Select(load.IndexOf));
        Assert.Equal([2, 5], load.Layers.Select(static l => l.Layer));
        Assert.Equal(0, load.Layers[0].Imbalance());
    }
}
