using System.Globalization;
using Ernie.Cli.Measuring.Layers;
using ScottPlot;
using SkiaSharp;

namespace Ernie.Cli.Measuring;

/// <summary>Pictures of measurements, as SVG or PNG by the file's name.</summary>
internal static class BenchmarkPlot
{
    private const int Width = 1200, Height = 500;

    /// <summary>Refuses a name before anything is measured.</summary>
    public static bool IsPicture(string path) => Path.GetExtension(path).ToUpperInvariant() is ".SVG" or ".PNG";

    /// <summary>Left: decode against the bound that reading sets. Right: prefill.</summary>
    public static void Save(ModelBenchmarkResult result, string path)
    {
        var decode = new Plot();
        decode.Title($"Decode, {result.Model}", 15);
        decode.XLabel("sequences at once");
        decode.YLabel("tokens/s, all together");
        Line(decode, "measured", [.. result.Decode.Select(static d => ((double)d.Sequences, d.TokensPerSecond))], Colors.C0);
        // What the probe would allow if a step did nothing but read.
        Line(decode, "bound by reading", [.. result.Decode.Select(static d => ((double)d.Sequences, d.Sequences * d.ReadProbe / d.StepBytes))], Colors.C1, isBound: true);
        Axes(decode, result.Decode.Select(static d => d.Sequences));

        var prefill = new Plot();
        prefill.Title($"Prefill, {result.Card?.Name ?? $"{result.Threads} threads"}, {result.Kernels}", 15);
        prefill.XLabel("tokens of the prompt");
        prefill.YLabel("tokens/s");
        Line(prefill, "measured", [.. result.Prefill.Select(static p => ((double)p.Tokens, p.TokensPerSecond))], Colors.C0);
        if (result.Card is null) Line(prefill, "bound by arithmetic", [.. result.Prefill.Select(static p => ((double)p.Tokens, p.TokensPerSecond * p.ArithmeticProbe!.Value / p.OperationsPerSecond))], Colors.C1, isBound: true);
        else Line(prefill, "bound by reading", [.. result.Prefill.Select(static p => ((double)p.Tokens, p.TokensPerSecond * p.CopyProbe!.Value / p.BytesPerSecond))], Colors.C1, isBound: true);
        Axes(prefill, result.Prefill.Select(static p => p.Tokens));
        Save([decode, prefill], path);
    }

    /// <summary>For each layer the work rate of every contestant against the number of tokens.</summary>
    public static void Save(LayerBenchmarkResult result, string path)
    {
        var plots = new List<Plot>();
        foreach (var layer in result.Rows.GroupBy(static r => r.Layer))
        {
            var plot = new Plot();
            plot.Title($"{layer.Key}, {result.Threads} threads", 15);
            plot.XLabel("tokens at once");
            plot.YLabel("GOP/s");
            var colour = 0;
            foreach (var line in layer.GroupBy(static r => $"{r.Name} {r.Format}"))
                Line(plot, line.Key, [.. line.Select(static r => ((double)r.Tokens, r.OperationsPerSecond / 1e9))], plot.Add.Palette.GetColor(colour++));
            var tokens = layer.Select(static r => r.Tokens).Distinct().ToArray();
            Line(plot, "bound", [.. tokens.Select(t => ((double)t, layer.Where(r => r.Tokens == t && r.IsOurs).Max(static r => Math.Min(r.ArithmeticProbe, r.OperationsPerSecond * r.ReadProbe / r.BytesPerSecond)) / 1e9))], Colors.Gray, isBound: true);
            Axes(plot, tokens);
            plots.Add(plot);
        }
        Save(plots, path);
    }

    /// <summary>A line with points through (x, y), on logarithmic axes.</summary>
    public static void Line(Plot plot, string label, IReadOnlyList<(double X, double Y)> points, Color color, bool isBound = false)
    {
        if (points.Count == 0) return;
        var line = plot.Add.Scatter(points.Select(static p => Math.Log2(p.X)).ToArray(), points.Select(static p => Math.Log10(p.Y)).ToArray(), color);
        line.LegendText = label;
        line.LineWidth = 2;
        line.MarkerSize = isBound ? 0 : 8;
        if (isBound) line.LinePattern = LinePattern.Dashed;
    }

    /// <summary>Ticks at the measured numbers below and at 1, 2, 5, 10, … at the side.</summary>
    public static void Axes(Plot plot, IEnumerable<int> numbers)
    {
        var ticks = numbers.Distinct().ToArray();
        plot.Axes.Bottom.TickGenerator = new ScottPlot.TickGenerators.NumericManual([.. ticks.Select(static n => Math.Log2(n))], [.. ticks.Select(static n => n.ToString(CultureInfo.InvariantCulture))]);
        double[] rates = [.. Enumerable.Range(-2, 10).Select(static e => Math.Pow(10, e)).SelectMany(static ten => (double[])[ten, 2 * ten, 5 * ten])];
        plot.Axes.Left.TickGenerator = new ScottPlot.TickGenerators.NumericManual([.. rates.Select(Math.Log10)], [.. rates.Select(static r => r.ToString("#,##0.##", CultureInfo.InvariantCulture))]);
        plot.Axes.Margins(0.06, 0.15);
        plot.Legend.Orientation = Orientation.Horizontal;
        plot.ShowLegend(Edge.Bottom);
    }

    public static void Save(IReadOnlyList<Plot> plots, string path)
    {
        var multiplot = new Multiplot();
        foreach (var plot in plots) multiplot.AddPlot(plot);
        multiplot.RemovePlot(multiplot.GetPlot(0)); // It begins with one of its own.
        multiplot.Layout = new ScottPlot.MultiplotLayouts.Columns();
        if (!Path.GetExtension(path).Equals(".svg", StringComparison.OrdinalIgnoreCase))
        {
            using var image = multiplot.Render(Width, Height);
            WholeFile.Write(path, image.GetImageBytes(ImageFormat.Png));
            return;
        }
        // The library saves a single plot as SVG, but not several.
        using var svg = new MemoryStream();
        using (var canvas = SKSvgCanvas.Create(SKRect.Create(Width, Height), svg))
        {
            canvas.Clear(SKColors.White);
            multiplot.Render(canvas, new PixelRect(0, Width, Height, 0));
        }
        WholeFile.Write(path, svg.ToArray());
    }
}
