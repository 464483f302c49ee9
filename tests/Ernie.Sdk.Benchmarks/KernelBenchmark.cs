using System.Diagnostics;
using System.Globalization;
using Ernie.Cli.Measuring;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Benchmarks;

/// <summary>Times every kernel family on the shapes of ERNIE 4.5 21B-A3B, next to the machine's read bandwidth.</summary>
internal sealed class KernelBenchmark : IDisposable
{
    private const double SecondsPerRow = 1.5;
    private readonly TaskRunner _runner = new(Environment.ProcessorCount);
    private readonly ReadBandwidthProbe _probe;
    private readonly CpuKernels[] _families;
    private readonly WeightFormat[] _formats;

    private KernelBenchmark(string[] names)
    {
        _probe = new ReadBandwidthProbe(_runner);
        _families = [.. KernelRegistry.All.Where(kernels => kernels is not ReferenceKernels && kernels.IsSupported && (!KernelRegistry.All.Any(k => names.Contains(k.Name)) || names.Contains(kernels.Name)))];
        _formats = [.. WeightFormat.All.Where(format => names.Contains(format.ToString()))];
        if (_formats.Length == 0) _formats = [WeightFormat.BFloat16, WeightFormat.Int8(128), WeightFormat.Int4(128), WeightFormat.Int2];
    }

    public static int Run(string[] names)
    {
        using var benchmark = new KernelBenchmark(names);
        benchmark.Print();
        return 0;
    }

    private void Print()
    {
        Console.WriteLine($"{Environment.ProcessorCount} threads, .NET {Environment.Version}. 'best' is the fastest call, the other figures are medians; the probe runs before each call, so both see the same foreign load. 'max diff' is against the reference.");
        Console.WriteLine($"{"operation",-46} {"family",-10} {"ms",9} {"best",9} {"GB",7} {"GB/s",7} {"probe",7} {"%",5} {"GFLOP/s",8} {"best",5} {"max diff",9}  note");
        foreach (var format in _formats) Weights(format);
        if (!_formats.Contains(WeightFormat.BFloat16)) return;
        foreach (var length in new[] { 4096, 16_384 })
        {
            using var attention = new AttentionBenchmark(_runner, length);
            Decode($"Attention, 1 token at {length}, 20/4 heads of 128", attention.Bytes, attention.Next, attention.Check);
            if (length == 4096) Prefill("Attention, 512 tokens at 3584, 20/4 heads", attention.FlopsOf(512), kernels => attention.Many(kernels, 512), kernels => attention.CheckMany(kernels));
        }
    }

    private void Weights(WeightFormat format)
    {
        // At least 400 MB of copies, so that no cache holds a part of what is read next.
        var copies = (int)(400_000_000 / format.Bytes(1, 3584, 2560)) + 1;
        if (format.Kind != WeightKind.Int2)
        {
            using var linear = new LinearBenchmark(_runner, 2560, 3584, copies, format);
            Decode($"Linear {format}, 1 token, 3584 × 2560", linear.Bytes, linear.Next, linear.Check);
            foreach (var tokens in new[] { 4, 16, 64, 512 })
                Prefill($"Linear {format}, {tokens} tokens, 3584 × 2560", linear.FlopsOf(tokens), kernels => linear.Many(kernels, tokens), kernels => linear.CheckMany(kernels, tokens));
            using var head = new LinearBenchmark(_runner, 2560, 103_424, copies: format.IsPacked ? 3 : 1, format);
            Decode($"Linear {format}, 1 token, 103424 × 2560 (head)", head.Bytes, head.Next, head.Check);
        }
        using var experts = new ExpertsBenchmark(_runner, format);
        Decode($"Experts {format}, 1 token, 6 of 64, 2560/1536", experts.Bytes, experts.Next, experts.Check, () => $"{experts.DistinctExperts} distinct experts touched");
        foreach (var tokens in new[] { 4, 16, 64, 512 })
            Prefill($"Experts {format}, {tokens} tokens, 6 of 64", ExpertsBenchmark.FlopsOf(tokens), kernels => experts.Many(kernels, tokens), kernels => experts.CheckMany(kernels, tokens));
    }

    private void Decode(string name, double bytes, Action<CpuKernels> run, Func<CpuKernels, double> check, Func<string>? note = null)
    {
        foreach (var kernels in _families)
        {
            var difference = check(kernels);
            var (seconds, best, probe) = Measure(() => run(kernels));
            var rate = bytes / seconds;
            Row(name, kernels.Name, $"{seconds * 1e3,9:F3} {best * 1e3,9:F3} {bytes / 1e9,7:F3} {rate / 1e9,7:F1} {probe / 1e9,7:F1} {rate / probe * 100,5:F0} {"",8} {"",5} {difference,9:G2}  {note?.Invoke()}");
        }
    }

    private void Prefill(string name, double flops, Action<CpuKernels> run, Func<CpuKernels, double> check)
    {
        foreach (var kernels in _families)
        {
            var difference = check(kernels);
            var (seconds, best, _) = Measure(() => run(kernels));
            Row(name, kernels.Name, $"{seconds * 1e3,9:F3} {best * 1e3,9:F3} {"",7} {"",7} {"",7} {"",5} {flops / seconds / 1e9,8:F0} {flops / best / 1e9,5:F0} {difference,9:G2}");
        }
    }

    private static void Row(string name, string family, string cells) => Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{name,-46} {family,-10} {cells}"));

    /// <summary>Median and best seconds of a call, and the median of the probes between calls.</summary>
    private (double Median, double Best, double Probe) Measure(Action run)
    {
        // Tiered compilation needs some calls, and a pause, before the last tier is in place.
        for (var i = 0; i < 3; i++) run();
        Thread.Sleep(150);
        run();
        var times = new List<double>();
        var probes = new List<double>();
        var begin = Stopwatch.GetTimestamp();
        while (times.Count < 5 || Stopwatch.GetElapsedTime(begin).TotalSeconds < SecondsPerRow)
        {
            probes.Add(_probe.Measure());
            var start = Stopwatch.GetTimestamp();
            run();
            times.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
        }
        times.Sort();
        probes.Sort();
        return (times[times.Count / 2], times[0], probes[probes.Count / 2]);
    }

    public void Dispose() => _probe.Dispose();
}
