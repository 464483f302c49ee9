using BenchmarkDotNet.Attributes;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Benchmarks;

#pragma warning disable CA1001 // BenchmarkDotNet calls the clean-up, and derives from these classes.

/// <summary>BenchmarkDotNet over the best kernels of this machine at the sizes of 21B-A3B. Successive calls read other weights, or use other experts.</summary>
[ShortRunJob, MemoryDiagnoser]
public class KernelRuns
{
    private readonly CpuKernels _kernels = KernelRegistry.Choose();
    private readonly TaskRunner _runner = new(Environment.ProcessorCount);
    private LinearBenchmark? _linear;
    private ExpertsBenchmark? _experts;

    /// <summary>Format of the weights.</summary>
    [Params("bf16", "int8/128", "int4/128", "int4/32", "int2")]
    public string Format { get; set; } = "bf16";

    /// <summary>Tokens at once.</summary>
    [Params(1, 16, 512)]
    public int Tokens { get; set; }

    private WeightFormat Weights => WeightFormat.TryParse(Format, out var format) ? format : throw new InvalidOperationException($"{Format} is no format.");

    /// <summary>Weights of a linear layer.</summary>
    [GlobalSetup(Target = nameof(Linear))]
    public void SetUpLinear() => _linear = new LinearBenchmark(_runner, 2560, 3584, (int)(400_000_000 / Weights.Bytes(1, 3584, 2560)) + 1, Weights);

    /// <summary>Weights of a layer of experts.</summary>
    [GlobalSetup(Target = nameof(Experts))]
    public void SetUpExperts() => _experts = new ExpertsBenchmark(_runner, Weights);

    /// <summary>A linear layer; int2 is for experts only, but its kernel is the same.</summary>
    [Benchmark]
    public void Linear() => _linear!.Next(_kernels, Tokens);

    /// <summary>Router, experts and their sum.</summary>
    [Benchmark]
    public void Experts() => _experts!.Next(_kernels, Tokens);

    /// <summary>Frees everything.</summary>
    [GlobalCleanup]
    public void CleanUp()
    {
        _linear?.Dispose();
        _experts?.Dispose();
    }
}

/// <summary>As <see cref="KernelRuns"/>: decode and prefill attention over a bfloat16 cache, which calls of one token rotate over.</summary>
[ShortRunJob, MemoryDiagnoser]
public class AttentionRuns
{
    private readonly CpuKernels _kernels = KernelRegistry.Choose();
    private AttentionBenchmark? _attention;

    /// <summary>Positions, the computed tokens' own included.</summary>
    [Params(4096, 16_384)]
    public int Length { get; set; }

    /// <summary>Reserves the caches.</summary>
    [GlobalSetup]
    public void SetUp() => _attention = new AttentionBenchmark(new TaskRunner(Environment.ProcessorCount), Length);

    /// <summary>One token.</summary>
    [Benchmark]
    public void Decode() => _attention!.Next(_kernels);

    /// <summary>The last 512 tokens.</summary>
    [Benchmark]
    public void Prefill() => _attention!.Many(_kernels, 512);

    /// <summary>Frees them.</summary>
    [GlobalCleanup]
    public void CleanUp() => _attention?.Dispose();
}
