using Ernie.Cli.Commands;
using ScottPlot;

namespace Ernie.Cli;

/// <summary>Bits a weight against KL divergence, a point for each model.</summary>
internal static class QualityPlot
{
    private const int Width = 800, Height = 500;

    public static void Save(List<ComparedModel> models, string path)
    {
        using var plot = new Plot();
        foreach (var model in models)
        {
            plot.Add.Marker(model.Bits, model.Divergence, MarkerShape.FilledCircle, 9);
            var name = plot.Add.Text(Path.GetFileName(Path.TrimEndingDirectorySeparator(model.Model)), model.Bits, model.Divergence);
            (name.OffsetX, name.OffsetY) = (8, -8);
        }
        plot.Title("What fewer bits cost");
        plot.XLabel("bits a weight");
        plot.YLabel("KL divergence from the reference, nats a token");
        plot.Axes.Margins(0.15, 0.15);
        if (Path.GetExtension(path) == ".svg") plot.SaveSvg(path, Width, Height);
        else plot.SavePng(path, Width, Height);
    }
}
