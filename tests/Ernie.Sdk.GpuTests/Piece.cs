using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.GpuTests;

/// <summary>A part of the program that runs on its own, within <see cref="LimitSeconds"/>.</summary>
/// <param name="Name">Stage and name, as in <c>kernels/linear</c>.</param>
/// <param name="About">One sentence.</param>
/// <param name="Run">What it does.</param>
internal sealed record Piece(string Name, string About, Func<PieceRun, Task> Run)
{
    /// <summary>Less than 8 minutes, with the time that a process takes to end.</summary>
    public const int LimitSeconds = 460;

    /// <summary>Whether the driver and a GPU are all that it needs; kernels need no more.</summary>
    public bool DriverIsEnough { get => field || Stage == KernelPieces.Stage; init; }

    public string Stage => Name[..Name.IndexOf('/', StringComparison.Ordinal)];
}

/// <summary>What a piece works with.</summary>
internal sealed class PieceRun(string piece, Report report, CudaInstallation installation, ProgramOptions options, CancellationToken cancellationToken)
{
    public CudaInstallation Installation => installation;
    public ProgramOptions Options => options;
    public CancellationToken CancellationToken => cancellationToken;
    /// <summary>Small sizes, as an emulated GPU can compute them.</summary>
    public bool IsTiny => options.Tiny;

    /// <summary>Makes a check. What it throws is its failure.</summary>
    /// <returns>Whether it passed.</returns>
    public bool Check(string name, Action<Findings> check) => CheckAsync(name, findings =>
    {
        check(findings);
        return Task.CompletedTask;
    }).GetAwaiter().GetResult();

    /// <inheritdoc cref="Check"/>
    public async Task<bool> CheckAsync(string name, Func<Findings, Task> check)
    {
        cancellationToken.ThrowIfCancellationRequested();
        var findings = new Findings();
        string? problem = null;
#pragma warning disable CA1031 // Whatever is thrown is what was found.
        try
        {
            await check(findings).ConfigureAwait(false);
            problem = findings.Problem ?? (findings.Count == 0 ? "Nothing was compared." : null);
        }
        catch (Exception e) when (e is not OperationCanceledException || !cancellationToken.IsCancellationRequested)
        {
            problem = $"{e.GetType().Name}: {e.Message}";
        }
#pragma warning restore CA1031
        report.Add(new Row
        {
            Piece = piece, Name = name, Outcome = problem is null ? Outcome.Pass : Outcome.Fail, Note = problem ?? findings.Remark,
            LargestError = findings.Tolerance is null ? null : findings.LargestError, Tolerance = findings.Tolerance, Comparisons = findings.Count,
        });
        return problem is null;
    }

    public void Skip(string name, string reason) => report.Add(new Row { Piece = piece, Name = name, Outcome = Outcome.Skip, Note = reason });

    /// <param name="name">What was measured.</param>
    /// <param name="value">The figure.</param>
    /// <param name="unit">Its unit.</param>
    /// <param name="whole">What it is a part of, in the same unit.</param>
    /// <param name="wholeName">What that is.</param>
    /// <param name="note">More of it.</param>
    /// <param name="bar">What it should reach.</param>
    /// <param name="figures">What it was made of, for the JSON.</param>
    public void Measured(string name, double value, string unit, double? whole = null, string? wholeName = null, string? note = null, Bar? bar = null, params (string Name, double Value)[] figures) => report.Add(new Row
    {
        Piece = piece, Name = name, Outcome = Outcome.Measured, Value = value, Unit = unit, Share = value / whole, ShareOf = whole is null ? null : wholeName, Note = note, Bar = bar,
        Figures = figures.Length == 0 ? null : figures.ToDictionary(static figure => figure.Name, static figure => figure.Value),
    });
}
