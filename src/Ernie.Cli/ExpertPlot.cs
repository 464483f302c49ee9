using Ernie.Sdk;
using ScottPlot;

namespace Ernie.Cli;

/// <summary>The heat map of expert load as a picture.</summary>
internal static class ExpertPlot
{
    private const int CellPixels = 14;

    public static bool CanWrite(string file) => Path.GetExtension(file).ToUpperInvariant() is ".SVG" or ".PNG";

    public static void Save(ErnieExpertLoad load, string title, string file)
    {
        // [layers, experts] in units of the mean.
        var cells = new double[load.Layers.Count, load.ExpertCount];
        foreach (var (row, layer) in load.Layers.Index())
        {
            for (var e = 0; e < load.ExpertCount; e++) cells[row, e] = (double)layer.ExpertTokens[e] * load.ExpertCount / load.ExpertsPerToken / Math.Max(1, layer.TokenCount);
        }
        using var plot = new Plot();
        plot.Title($"{title}: {load.Layers[0].TokenCount} tokens, {load.ExpertsPerToken} of {load.ExpertCount} experts");
        plot.XLabel("expert");
        plot.YLabel("layer");
        var map = plot.Add.Heatmap(cells);
        map.Colormap = new ScottPlot.Colormaps.Viridis();
        // One scale for all models: white noise must not look like a hot spot.
        map.ManualRange = new ScottPlot.Range(0, 2);
        var bar = plot.Add.ColorBar(map);
        bar.Label = "tokens / mean";
        // The first row of a heat map is at the top.
        plot.Axes.Left.SetTicks([.. Enumerable.Range(0, load.Layers.Count).Select(row => (double)(load.Layers.Count - 1 - row))], [.. load.Layers.Select(static layer => $"{layer.Layer}")]);
        var step = load.ExpertCount <= 32 ? 1 : 4;
        plot.Axes.Bottom.SetTicks([.. Enumerable.Range(0, (load.ExpertCount + step - 1) / step).Select(i => (double)i * step)], [.. Enumerable.Range(0, (load.ExpertCount + step - 1) / step).Select(i => $"{i * step}")]);
        plot.Axes.Margins(0, 0);
        var (width, height) = (Math.Max(700, load.ExpertCount * CellPixels + 220), Math.Max(320, load.Layers.Count * CellPixels + 160));
        if (Path.GetExtension(file).Equals(".svg", StringComparison.OrdinalIgnoreCase)) plot.SaveSvg(file, width, height);
        else plot.SavePng(file, width, height);
    }
}
