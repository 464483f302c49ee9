using Ernie.Cli.Measuring;
using ScottPlot;
using SkiaSharp;

namespace Ernie.Cli;

/// <summary>Which blocks a prompt reads, as pictures: a row a block of the prompt, a column a block of the cache.</summary>
internal static class PlasMapPlot
{
    private const int PlotPixels = 300;

    /// <summary>A map for each layer: how many of its heads keep a block.</summary>
    public static void SaveLayers(IReadOnlyList<IReadOnlyList<PlasMapRow>> layers, string file) =>
        Save([.. layers.Select(static (rows, layer) => Map($"layer {layer}, share of heads", rows, static (row, block) => row.Kept is null ? 1 : row.Kept.Average(kept => Array.BinarySearch(kept, block) >= 0 ? 1 : 0)))], file);

    /// <summary>A map for each query head of a layer.</summary>
    public static void SaveHeads(IReadOnlyList<PlasMapRow> rows, int layer, string file) =>
        Save([.. Enumerable.Range(0, rows[0].Mass.Length).Select(head => Map($"layer {layer}, head {head}", rows, (row, block) => row.Kept is null || Array.BinarySearch(row.Kept[head], block) >= 0 ? 1 : 0))], file);

    private static Plot Map(string title, IReadOnlyList<PlasMapRow> rows, Func<PlasMapRow, int, double> share)
    {
        var blocks = rows[^1].Block + 1;
        // Blocks after the diagonal do not exist for a row.
        var cells = new double[blocks, blocks];
        for (var i = 0; i < blocks; i++)
        {
            for (var j = 0; j < blocks; j++) cells[i, j] = double.NaN;
        }
        foreach (var row in rows)
        {
            for (var j = 0; j <= row.Block; j++) cells[row.Block, j] = share(row, j);
        }
        var plot = new Plot();
        plot.Title(title, 12);
        var map = plot.Add.Heatmap(cells);
        map.Colormap = new ScottPlot.Colormaps.Viridis();
        map.ManualRange = new ScottPlot.Range(0, 1);
        // The first row of a heat map is at the top.
        var step = Math.Max(1, blocks / 4);
        int[] ticks = [.. Enumerable.Range(0, (blocks + step - 1) / step).Select(i => i * step)];
        plot.Axes.Left.SetTicks([.. ticks.Select(i => (double)(blocks - 1 - i))], [.. ticks.Select(static i => $"{i}")]);
        plot.Axes.Bottom.SetTicks([.. ticks.Select(static i => (double)i)], [.. ticks.Select(static i => $"{i}")]);
        plot.Axes.Margins(0, 0);
        return plot;
    }

    private static void Save(IReadOnlyList<Plot> plots, string file)
    {
        var columns = (int)Math.Ceiling(Math.Sqrt(plots.Count));
        var rows = (plots.Count + columns - 1) / columns;
        var (width, height) = (columns * PlotPixels, rows * PlotPixels);
        var multiplot = new Multiplot();
        foreach (var plot in plots) multiplot.AddPlot(plot);
        multiplot.RemovePlot(multiplot.GetPlot(0)); // It begins with one of its own.
        multiplot.Layout = new ScottPlot.MultiplotLayouts.Grid(rows, columns);
        if (!Path.GetExtension(file).Equals(".svg", StringComparison.OrdinalIgnoreCase))
        {
            multiplot.SavePng(file, width, height);
            return;
        }
        // The library saves a single plot as SVG, but not several.
        using var stream = File.Create(file);
        using var canvas = SKSvgCanvas.Create(SKRect.Create(width, height), stream);
        canvas.Clear(SKColors.White);
        multiplot.Render(canvas, new PixelRect(0, width, height, 0));
    }
}
