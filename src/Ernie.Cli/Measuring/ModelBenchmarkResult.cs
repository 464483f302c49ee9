using System.Runtime.InteropServices;
using Ernie.Sdk.Native;

namespace Ernie.Cli.Measuring;

/// <summary>What <see cref="ModelBenchmark"/> found; written as JSON as it is. Rates are per second, sizes in bytes, times in seconds.</summary>
internal sealed record ModelBenchmarkResult
{
    public required string Model { get; init; }
    public required string Formats { get; init; }
    public required int ExpertCount { get; init; }
    public required string Kernels { get; init; }
    public required int Threads { get; init; }
    public required int Runs { get; init; }
    public required long WeightBytes { get; init; }
    public required MachineDescription Machine { get; init; }
    /// <summary>The first load, which may find the files outside the page cache, then <see cref="Runs"/> more.</summary>
    public required IReadOnlyList<LoadResult> Loads { get; init; }
    public required MemoryResult Memory { get; init; }
    /// <summary>Null where a GPU computed.</summary>
    public required MachineReading? Before { get; init; }
    /// <summary>Likewise.</summary>
    public required MachineReading? After { get; init; }
    /// <summary>The GPU; null: the CPU computed.</summary>
    public CardReading? Card { get; init; }
    public required IReadOnlyList<DecodeResult> Decode { get; init; }
    public required IReadOnlyList<PrefillResult> Prefill { get; init; }
}

/// <summary>What a card copies on itself, reading and writing.</summary>
internal sealed record CardReading(string Name, double CopyBefore, double CopyAfter);

internal sealed record MachineDescription(string Processor, int Processors, string System, string DotNet, string OnnxRuntime)
{
    public static MachineDescription Current => new(ProcessorName(), Environment.ProcessorCount, RuntimeInformation.RuntimeIdentifier, Environment.Version.ToString(), OrtRuntime.Version);

    private static string ProcessorName()
    {
        const string Key = "model name";
        var line = File.Exists("/proc/cpuinfo") ? File.ReadLines("/proc/cpuinfo").FirstOrDefault(static l => l.StartsWith(Key, StringComparison.Ordinal)) : null;
        return line is null ? RuntimeInformation.ProcessArchitecture.ToString() : line[(line.IndexOf(':', StringComparison.Ordinal) + 1)..].Trim();
    }
}

/// <param name="Loaded">When LoadAsync returned.</param>
/// <param name="FirstToken">When the first token of a prompt of 16 came.</param>
internal sealed record LoadResult(double Loaded, double FirstToken);

/// <param name="Private">After load and first token.</param>
/// <param name="Mapped">Likewise; null where the system does not say.</param>
/// <param name="PrefillTokens">Length of the prompt of the peak.</param>
/// <param name="PeakPrivate">Most private memory during it.</param>
/// <param name="After">After it.</param>
internal sealed record MemoryResult(long Private, long? Mapped, int PrefillTokens, long PeakPrivate, ProcessMemory After);

internal sealed record DecodeRun(double TokensPerSecond, double StepBytes, double StepOperations, double DistinctExperts, double TouchedExperts, double ReadProbe);

/// <param name="Sequences">Decoding at once.</param>
/// <param name="TokensPerSecond">Of all sequences together.</param>
/// <param name="StepSeconds">Time of one token of every sequence.</param>
/// <param name="StepBytes">Read in that time: weights, keys and values.</param>
/// <param name="BytesPerSecond">Rate of that.</param>
/// <param name="OperationsPerSecond">Multiplications and additions.</param>
/// <param name="ReadProbe">What all threads read from memory before and after the run; on a GPU what the card copies, reading and writing.</param>
/// <param name="DistinctExperts">Experts of a layer that one step reads.</param>
/// <param name="TouchedExperts">Experts of a layer that a whole run reads.</param>
internal sealed record DecodeResult(int Sequences, double TokensPerSecond, double StepSeconds, double StepBytes, double BytesPerSecond, double OperationsPerSecond, double ReadProbe, double DistinctExperts, double TouchedExperts)
{
    /// <summary>The median run; bytes and experts, which differ only with the tokens, are means.</summary>
    public static DecodeResult Of(int sequences, IReadOnlyList<DecodeRun> runs)
    {
        var rate = Median.Of(runs.Select(static r => r.TokensPerSecond));
        var bytes = runs.Average(static r => r.StepBytes);
        return new DecodeResult(sequences, rate, sequences / rate, bytes, bytes * rate / sequences, runs.Average(static r => r.StepOperations) * rate / sequences,
            Median.Of(runs.Select(static r => r.ReadProbe)), runs.Average(static r => r.DistinctExperts), runs.Average(static r => r.TouchedExperts));
    }
}

internal sealed record PrefillRun(double Seconds, double Operations, double Bytes, double TouchedExperts, double? ArithmeticProbe, double? CopyProbe);

/// <param name="Tokens">Length of the prompt.</param>
/// <param name="Seconds">To its first token.</param>
/// <param name="TokensPerSecond">Tokens of the prompt in that time.</param>
/// <param name="OperationsPerSecond">Multiplications and additions.</param>
/// <param name="ArithmeticProbe">Before and after each run: products of bytes for packed weights, else float multiply-adds; null on a GPU.</param>
/// <param name="Bytes">Read: weights of each chunk, keys and values.</param>
/// <param name="TouchedExperts">Experts of a layer that the prompt reads.</param>
/// <param name="CopyProbe">On a GPU: what the card copies, reading and writing, before and after each run.</param>
internal sealed record PrefillResult(int Tokens, double Seconds, double TokensPerSecond, double OperationsPerSecond, double? ArithmeticProbe, double Bytes, double TouchedExperts, double? CopyProbe)
{
    public double BytesPerSecond => Bytes / Seconds;

    public static PrefillResult Of(int tokens, IReadOnlyList<PrefillRun> runs)
    {
        var seconds = Median.Of(runs.Select(static r => r.Seconds));
        var operations = runs.Average(static r => r.Operations) / seconds;
        return new PrefillResult(tokens, seconds, tokens / seconds, operations, MedianOf(static r => r.ArithmeticProbe), runs.Average(static r => r.Bytes), runs.Average(static r => r.TouchedExperts), MedianOf(static r => r.CopyProbe));

        double? MedianOf(Func<PrefillRun, double?> probe) => runs.Any(run => probe(run) is null) ? null : Median.Of(runs.Select(run => probe(run)!.Value));
    }
}
