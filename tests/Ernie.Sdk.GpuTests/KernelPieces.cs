using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.GpuTests;

/// <summary>Every kernel, through the driver alone, against the reference kernels.</summary>
internal static class KernelPieces
{
    public const string Stage = "kernels";
    private static readonly WeightFormat[] s_tinyFormats = [WeightFormat.BFloat16, WeightFormat.Int4(64), WeightFormat.Int2];

    /// <summary>Of 21B-A3B, in the tilings of decode and prefill; a quarter of the experts, which are quicker to make.</summary>
    private static readonly WeightFormat[] s_largeFormats = [WeightFormat.BFloat16, WeightFormat.Int8(128), WeightFormat.Int4(128), WeightFormat.Int2];
    private static readonly (int Tokens, int Rows, int Columns)[] s_largeLinear = [(1, 3584, 2560), (16, 3584, 2560), (300, 3584, 2560)];
    private static readonly (int Tokens, int Hidden, int Intermediate, int Experts, int PerToken)[] s_largeExperts = [(1, 2560, 1536, 16, 6), (24, 2560, 1536, 16, 6), (200, 2560, 1536, 16, 6)];

    private static readonly (int Tokens, int Rows, int Columns)[] s_tinyLinear = [(2, 5, 15), (9, 33, 256)];

    public static IReadOnlyList<Piece> All { get; } =
    [
        new("kernels/load", "compiles the PTX of every file on this driver", Load),
        new("kernels/norm", "the residual and its RMS norm against the reference", Norm),
        new("kernels/linear", "linear layers in every weight format", Linear),
        new("kernels/experts", "layers of experts in every weight format", Experts),
        new("kernels/attention", "dense and sparse attention over every cache", Attention),
        new("kernels/sampling", "sampling against the CPU's sampler", Sampling),
    ];

    private static readonly TaskRunner s_runner = new(Environment.ProcessorCount);

    private static Task Load(PieceRun run) => Run(run, static (run, _) =>
    {
        using var context = run.Installation.Gpu().Retain();
        using var modules = new CudaModules(context);
        foreach (var file in CudaFiles)
        {
            run.Check($"{file} for {string.Join(" or ", CudaModules.TargetsOf(context.Device.ComputeCapability))}", findings =>
            {
                modules.Compile(file);
                findings.True(true, "");
            });
        }
    });

    public static IReadOnlyList<string> CudaFiles { get; } = ["attention", "experts", "linear", "norm", "sampling"];

    private static Task Norm(PieceRun run) => Run(run, static (run, kernels) =>
    {
        foreach (var (tokens, columns) in run.IsTiny ? NormChecks.Shapes.Take(3) : NormChecks.Shapes) run.Check($"{tokens} × {columns}", findings => NormChecks.EqualsReference(kernels, s_runner, tokens, columns, findings));
        foreach (var columns in run.IsTiny ? [] : new[] { 70, 2560 }) run.Check($"quantised, 3 × {columns}", findings => NormChecks.QuantisesAsProductsDo(kernels, 3, columns, findings));
    });

    private static Task Linear(PieceRun run) => Run(run, static (run, kernels) =>
    {
        var checks = new ProductChecks(kernels, s_runner);
        foreach (var format in Formats(run))
        {
            if (!run.IsTiny && s_largeFormats.Contains(format)) run.Check($"{format}, sizes of 21B-A3B", findings => checks.Linear(format, s_largeLinear, findings));
            run.Check($"{format}", findings => checks.Linear(format, run.IsTiny ? s_tinyLinear : [.. KernelShapes.Linear, .. KernelShapes.CudaLinear], findings));
            if (run.IsTiny) continue;
            run.Check($"{format}: bits of a token alone and in every tiling", findings =>
            {
                var tiled = Enum.GetValues<CudaTiling>().ToDictionary(static tiling => tiling, tiling => new DeviceKernels(run.Installation.Gpu()) { Tiling = tiling });
                try
                {
                    checks.LinearBits(format, tiling => tiled[tiling], findings);
                }
                finally
                {
                    foreach (var each in tiled.Values) each.Dispose();
                }
            });
        }
    });

    private static Task Experts(PieceRun run) => Run(run, static (run, kernels) =>
    {
        var checks = new ProductChecks(kernels, s_runner);
        foreach (var format in Formats(run))
        {
            if (!run.IsTiny && s_largeFormats.Contains(format)) run.Check($"{format}, sizes of 21B-A3B", findings => checks.Experts(format, s_largeExperts, findings));
            run.Check($"{format}", findings => checks.Experts(format, run.IsTiny ? KernelShapes.CudaExperts[^2..] : [.. KernelShapes.Experts, .. KernelShapes.CudaExperts], findings));
            if (!run.IsTiny) run.Check($"{format}: bits of a token alone", findings => checks.ExpertsBits(format, findings));
        }
        run.Check("uneven, and in halves", checks.UnevenExperts);
        run.Check("some experts in slots", findings => ProductChecks.Resident(kernels, s_runner, findings));
        run.Check("beside another device", findings => ProductChecks.Parts(kernels, s_runner, findings));
    });

    private static Task Attention(PieceRun run) => Run(run, static (run, kernels) =>
    {
        var checks = new AttentionChecks(kernels, s_runner);
        var known = KernelShapes.Attention.Where(static shape => shape.HeadDim % 16 == 0);
        foreach (var type in Enum.GetValues<KvElementType>())
        {
            run.Check($"dense, {type} cache", findings => checks.Dense(type, run.IsTiny ? KernelShapes.CudaAttention[..1] : [.. known, .. KernelShapes.CudaAttention], findings));
            run.Check($"sparse, {type} cache", findings => checks.Sparse(type, run.IsTiny ? KernelShapes.CudaSparse[^1..] : KernelShapes.CudaSparse, findings));
            if (!run.IsTiny) run.Check($"bits in prefill, decode and chunks, {type} cache", findings => checks.Bits(type, findings));
        }
        if (!run.IsTiny) run.Check("2,155 tokens", checks.Long);
        run.Check("sequences that have ended", checks.Dead);
    });

    private static Task Sampling(PieceRun run) => Run(run, static (run, kernels) =>
    {
        foreach (var vocabulary in run.IsTiny ? [700] : new[] { 700, 103_424 }) run.Check($"tokens of {vocabulary} ids", findings => SamplingChecks.Tokens(kernels, vocabulary, findings));
        run.Check("log-probabilities", findings => SamplingChecks.LogProbabilities(kernels, findings));
    });

    private static IEnumerable<WeightFormat> Formats(PieceRun run) => run.IsTiny ? s_tinyFormats : WeightFormat.All;

    private static Task Run(PieceRun run, Action<PieceRun, DeviceKernels> work)
    {
        using var kernels = new DeviceKernels(run.Installation.Gpu());
        work(run, kernels);
        return Task.CompletedTask;
    }
}
