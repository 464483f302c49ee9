using System.Diagnostics;
using System.Globalization;
using System.Reflection;
using System.Runtime.InteropServices;
using Ernie.Cli.Doctor;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.GpuTests;

/// <summary>Runs pieces, one after another, and says how they went.</summary>
/// <param name="installation">What is there of CUDA.</param>
/// <param name="output">Where the table goes.</param>
/// <param name="error">Where wrong usage goes.</param>
internal sealed class GpuTestProgram(CudaInstallation installation, TextWriter output, TextWriter error)
{
    private const int Success = 0, Failure = 1, WrongUsage = 2;
    /// <summary>What a piece that was told to end may still take.</summary>
    private static readonly TimeSpan s_grace = TimeSpan.FromSeconds(10);

    /// <summary>What is left of the minutes for all must be more, or the next piece does not begin.</summary>
    private static readonly TimeSpan s_leastTime = TimeSpan.FromSeconds(15);
    /// <summary>What a first hour with a card should answer first: is it right, how fast is a step, how fast are its parts, how fast are others.</summary>
    private static readonly string[] s_order =
    [
        "kernels/load", "kernels/card", "kernels/norm", "kernels/linear", "kernels/experts", "kernels/attention", "kernels/sampling", "model/tiny", "model/graphs", "bench/synth-int4", "bench/decode-int4", "bench/overlap-int4", "bench/prefill-int4",
        "kernels/speed-experts", "kernels/speed-decode", "kernels/speed-prefill", "kernels/speed-linear", "bench/peer-onnxruntime", "bench/synth-int2", "bench/decode-int2", "bench/overlap-int2", "bench/prefill-int2", "model/accuracy", "model/goldens",
        "bench/peer-pytorch", "bench/prompts-int4", "bench/prompts-int2", "model/two", "model/several-gpus", "model/out-of-memory", "model/leak",
    ];

    /// <summary>In the order in which they run.</summary>
    public static IReadOnlyList<Piece> All { get; } = [.. new[] { KernelPieces.All, SpeedPieces.All, ModelPieces.All, BenchPieces.All, PeerPieces.All }.SelectMany(static group => group).OrderBy(static piece => Array.IndexOf(s_order, piece.Name))];

    public IReadOnlyList<Piece> Pieces { get; init; } = All;

    /// <summary>Of the minutes for all pieces.</summary>
    public TimeProvider Time { get; init; } = TimeProvider.System;

    public async Task<int> RunAsync(IReadOnlyList<string> arguments)
    {
        ProgramOptions options;
        IReadOnlyList<Piece> chosen;
        try
        {
            if (arguments.Contains("--help"))
            {
                await output.WriteLineAsync(ProgramOptions.Usage).ConfigureAwait(false);
                return Success;
            }
            options = ProgramOptions.Parse(arguments);
            chosen = Choose(options);
        }
        catch (FormatException e)
        {
            await error.WriteLineAsync($"{e.Message}\n\n{ProgramOptions.Usage}").ConfigureAwait(false);
            return WrongUsage;
        }
        if (options.List)
        {
            foreach (var piece in chosen) await output.WriteLineAsync($"{piece.Name,-22} {piece.About}").ConfigureAwait(false);
            return Success;
        }
        OrtRuntime.Start(logger: null, allowTelemetry: false);
        if (!IsUsable(chosen, out var absent)) return Failure;
        var machine = Machine();
        var report = new Report(output, options.Json)
        {
            Machine = machine,
            // What other runs on this machine have found stays beside it.
            Earlier = options.InProcess || !Report.IsOf(options.Json, machine) ? [] : [.. Report.Read(options.Json).Where(row => chosen.All(piece => piece.Name != row.Piece))],
        };
        if (!options.InProcess)
        {
            foreach (var (name, value) in report.Machine) await output.WriteLineAsync($"{name,-22} {value}").ConfigureAwait(false);
            if (report.Earlier.Count > 0) await output.WriteLineAsync($"{Path.GetFileName(options.Json)} keeps {report.Earlier.Count} lines of {report.Earlier.Select(static row => row.Piece).Distinct().Count()} other pieces.").ConfigureAwait(false);
            await output.WriteLineAsync($"\n{Report.Header}").ConfigureAwait(false);
        }
        report.Save();
        var began = Time.GetTimestamp();
        foreach (var piece in chosen)
        {
            if (absent.Count > 0 && !piece.DriverIsEnough)
            {
                report.Add(Skipped(piece, $"{string.Join(", ", absent)}: missing or unfit, as said above."));
            }
            else if (Left(options, Time.GetElapsedTime(began)) is not { } limited)
            {
                report.Add(Skipped(piece, $"No time was left of --minutes {options.Minutes}."));
            }
            else if (!options.InProcess)
            {
                await RunInChildAsync(piece, report, limited).ConfigureAwait(false);
            }
            else if (!await RunHereAsync(piece, report, limited).ConfigureAwait(false))
            {
                return Failure;
            }
        }
        if (!options.InProcess) await output.WriteLineAsync($"\n{report.Summary()}\n{Path.GetFullPath(options.Json)}").ConfigureAwait(false);
        return report.HasFailed || absent.Count > 0 ? Failure : Success;
    }

    private Piece[] Choose(ProgramOptions options)
    {
        if (options.Stages.FirstOrDefault(stage => Pieces.All(piece => piece.Stage != stage)) is { } unknown)
            throw new FormatException($"There is no stage '{unknown}'; there are {string.Join(", ", Pieces.Select(static piece => piece.Stage).Distinct())}.");
        if (options.Only.FirstOrDefault(name => Pieces.All(piece => piece.Name != name)) is { } missing) throw new FormatException($"There is no piece '{missing}'; --list names them.");
        return [.. Pieces.Where(piece => (options.Stages.Count == 0 || options.Stages.Contains(piece.Stage)) && (options.Only.Count == 0 || options.Only.Contains(piece.Name)))];
    }

    /// <summary>With what is left of the minutes for all as the limit; null where that is too little.</summary>
    private static ProgramOptions? Left(ProgramOptions options, TimeSpan elapsed)
    {
        if (options.Minutes is not { } minutes) return options;
        var left = TimeSpan.FromMinutes(minutes) - elapsed;
        return left < s_leastTime ? null : options with { LimitSeconds = (int)Math.Min(options.LimitSeconds, (left - s_grace).TotalSeconds) };
    }

    /// <summary>Whether some of the chosen pieces can run. Where something is missing, says what 'ernie doctor' says.</summary>
    /// <param name="chosen">The pieces.</param>
    /// <param name="absent">What is missing of what all need for which the driver is not enough.</param>
    private bool IsUsable(IReadOnlyList<Piece> chosen, out IReadOnlyList<string> absent)
    {
        var broken = installation.Pieces().Where(static piece => piece.State != CudaPieceState.Present).Select(static piece => piece.Name).ToArray();
        var hasGpu = !broken.Any(static name => name is "GPU driver" or "GPU");
        absent = chosen.All(static piece => piece.DriverIsEnough) ? [] : broken;
        if (hasGpu && absent.Count == 0) return true;
        foreach (var finding in GpuFindings.All(installation))
        {
            output.WriteLine($"{finding.State switch { FindingState.Fine => "ok", FindingState.Absent => "-", _ => "!" },2}  {finding.Name,-20}  {finding.Text}");
            if (finding.Cure is not null) output.WriteLine($"{"",26}{finding.Cure}");
        }
        if (hasGpu && chosen.Any(static piece => piece.DriverIsEnough)) return true;
        output.WriteLine($"Nothing was tested: {string.Join(", ", broken)} {(broken.Length == 1 ? "is" : "are")} missing or unfit.{(hasGpu ? " --stage kernels needs the driver and a GPU alone." : "")}");
        return false;
    }

    private Dictionary<string, string> Machine()
    {
        var machine = installation.Pieces().ToDictionary(static piece => piece.Name, static piece => piece.Found);
        machine["system"] = $"{RuntimeInformation.OSDescription}, {Environment.ProcessorCount} processors, .NET {Environment.Version}";
        machine["version"] = typeof(ErnieModel).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion ?? "";
        return machine;
    }

    /// <summary>Returns false where the piece did not end: what it was doing still goes on.</summary>
    private async Task<bool> RunHereAsync(Piece piece, Report report, ProgramOptions options)
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(options.LimitSeconds));
        var clock = Stopwatch.StartNew();
        var run = new PieceRun(piece.Name, report, installation, options, limit.Token);
        var work = Task.Run(() => piece.Run(run));
#pragma warning disable CA1031 // Whatever ends a piece is what was found.
        try
        {
            await work.WaitAsync(TimeSpan.FromSeconds(options.LimitSeconds) + s_grace).ConfigureAwait(false);
            return true;
        }
        catch (OperationCanceledException) when (limit.IsCancellationRequested)
        {
            report.Add(OutOfTime(piece, clock.Elapsed));
            return true;
        }
        catch (TimeoutException) when (!work.IsCompleted)
        {
            report.Add(OutOfTime(piece, clock.Elapsed));
            return false;
        }
        catch (Exception e)
        {
            report.Add(new Row { Piece = piece.Name, Name = "(the piece)", Outcome = Outcome.Fail, Note = $"{e.GetType().Name}: {e.Message}" });
            return true;
        }
#pragma warning restore CA1031
    }

    /// <summary>In a process of its own: an illegal address ends all that a process does on a GPU, and a kernel that hangs ends with its process only.</summary>
    private async Task RunInChildAsync(Piece piece, Report report, ProgramOptions options)
    {
        var json = Path.GetFullPath(options.Json) + $".{piece.Name.Replace('/', '-')}";
        File.Delete(json);
        var clock = Stopwatch.StartNew();
        using var child = Process.Start(Self(options.ForChild(piece.Name, json)))!;
        var lines = PumpAsync(child.StandardOutput, output);
        var errors = child.StandardError.ReadToEndAsync();
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(options.LimitSeconds) + 2 * s_grace);
        var ended = true;
        try
        {
            await child.WaitForExitAsync(limit.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            ended = false;
            child.Kill(entireProcessTree: true);
        }
        await lines.ConfigureAwait(false);
        var rows = Report.Read(json);
        File.Delete(json);
        report.AddPrinted(rows);
        if (!ended) report.Add(OutOfTime(piece, clock.Elapsed));
        else if (rows.Count == 0 || (child.ExitCode != Success && !rows.Any(static row => row.IsBad)))
        {
            var last = (await errors.ConfigureAwait(false)).Trim().Split('\n').Take(3);
            report.Add(new Row { Piece = piece.Name, Name = "(the piece)", Outcome = Outcome.Fail, Note = $"its process ended with {child.ExitCode}{(rows.Count == 0 ? " and reported nothing" : "")}. {string.Join(' ', last)}".Trim() });
        }
    }

    private static Row Skipped(Piece piece, string reason) => new() { Piece = piece.Name, Name = "(the piece)", Outcome = Outcome.Skip, Note = reason };

    private static Row OutOfTime(Piece piece, TimeSpan elapsed) => new() { Piece = piece.Name, Name = "(the piece)", Outcome = Outcome.OutOfTime, Note = string.Create(CultureInfo.InvariantCulture, $"ran out of time after {elapsed.TotalSeconds:F0} s; what stands above was done before.") };

    private static ProcessStartInfo Self(IEnumerable<string> arguments)
    {
        var program = Environment.ProcessPath!;
        // "dotnet program.dll" where the program has no executable of its own.
        var viaHost = Path.GetFileNameWithoutExtension(program) == "dotnet";
        return new ProcessStartInfo(program, [.. viaHost ? [Path.Combine(AppContext.BaseDirectory, "Ernie.Sdk.GpuTests.dll")] : Array.Empty<string>(), .. arguments]) { RedirectStandardOutput = true, RedirectStandardError = true };
    }

    private static async Task PumpAsync(StreamReader from, TextWriter to)
    {
        while (await from.ReadLineAsync().ConfigureAwait(false) is { } line)
        {
            await to.WriteLineAsync(line).ConfigureAwait(false);
            await to.FlushAsync().ConfigureAwait(false);
        }
    }
}
