using Ernie.Sdk.Engine;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Tests.Chat;

namespace Ernie.Sdk.Tests.Support;

/// <summary>
/// The shipped model on an emulated GPU of which it may take a part, so that experts or whole layers stay on the CPU: how much memory makes how many stay, and models that are loaded as it was planned. Tests that use it are of
/// the collection <see cref="FakeCuda.Collection"/>.
/// </summary>
/// <param name="contextLength">Tokens of the one conversation that there is room for.</param>
/// <param name="count">GPUs that there are.</param>
internal sealed class LimitedGpu(int contextLength = LimitedGpu.Context, int count = 1) : IDisposable
{
    /// <summary>Logits of the shipped model are of order 10. Kernels of both devices sum the same products in float, in other orders.</summary>
    public const double Tolerance = 3e-4;
    /// <summary>For logits of every token of a text, which only tests and commands look at. Less than a layer or an expert has.</summary>
    public const long Slack = 128 << 10;
    /// <summary>Of the shipped model. Layer 0 has no experts.</summary>
    public const int AllLayers = 5, MoeLayers = 4, ExpertsOfLayer = 8;
    public const long AllBytes = 8L << 30;
    private const int Context = 512, Chunk = 128;

    private readonly EmulatedGpu _gpu = new(count);

    /// <summary>A short prompt.</summary>
    public static IReadOnlyList<int> Prompt { get; } = [1, 17, 300, 42, 9, 1200, 77];

    public FakeCuda Driver => _gpu.Driver;

    public void Dispose() => _gpu.Dispose();

    /// <summary>What <c>ernie plan</c> says of a model that is loaded from here.</summary>
    public ErniePlan Plan(string path, long bytes = AllBytes, ErnieKvCacheType kvType = ErnieKvCacheType.Float32, int? context = null, int gpus = 1) =>
        ErniePlan.ForModel(path, new ErniePlanOptions { GpuBytes = bytes, GpuCount = gpus, ReserveBytes = 0, ContextLength = context ?? contextLength, KvCacheType = kvType, PrefillChunkTokens = Chunk });

    /// <summary>What all of a plan takes on the GPU.</summary>
    public static long Needed(ErniePlan plan) => plan.Gpus[0].WeightBytes + plan.Gpus[0].KvCacheBytes + plan.Gpus[0].WorkspaceBytes;

    /// <summary>An expert's weights.</summary>
    public static long ExpertBytes(string path)
    {
        var (config, formats) = ErniePlan.Read(path, new ErnieExportOptions());
        return MemoryPlan.For(config, formats, KvElementType.Float32, 1).ExpertBytes / MoeLayers / ExpertsOfLayer;
    }

    /// <summary>The least memory with which no more than some experts are the CPU's.</summary>
    public long WithoutExperts(string path, int count) => Needed(Plan(path)) - count * ExpertBytes(path);

    /// <summary>The least memory with which no more than some layers are the CPU's.</summary>
    public long WithoutLayers(string path, int count, ErnieKvCacheType kvType = ErnieKvCacheType.Float32) => Least(path, plan => plan.Fits && plan.CpuLayers.Count <= count, kvType);

    /// <summary>The least memory of each GPU with which a plan is as it should be.</summary>
    public long Least(string path, Func<ErniePlan, bool> isFit, ErnieKvCacheType kvType = ErnieKvCacheType.Float32, int gpus = 1)
    {
        var (least, most) = (1L, AllBytes);
        while (least < most)
        {
            var middle = least + (most - least) / 2;
            if (isFit(Plan(path, middle, kvType, gpus: gpus))) most = middle;
            else least = middle + 1;
        }
        return least;
    }

    /// <summary>As a model is loaded on either device.</summary>
    public ErnieModelOptions Options(ErnieKvCacheType kvType = ErnieKvCacheType.Float32) =>
        new() { Threads = 2, KvCacheType = kvType, ContextLength = contextLength, MaxConcurrentRequests = 1, PrefillChunkTokens = Chunk };

    /// <summary>On the CPU.</summary>
    public Task<ErnieModel> LoadOnCpuAsync(string path, ErnieKvCacheType kvType = ErnieKvCacheType.Float32) => ErnieModel.LoadAsync(path, Options(kvType), cancellationToken: TestContext.Current.CancellationToken);

    /// <summary>On the GPU, with as much memory as that.</summary>
    public Task<ErnieModel> LoadAsync(string path, long? limit, RecordedLog? log = null, Action<ErnieModelOptions>? configure = null, IProgress<ErnieProgress>? progress = null, CancellationToken? cancellationToken = null)
    {
        var options = Options();
        (options.Device, options.Installation, options.GpuMemoryBytes, options.LoggerFactory) = (ErnieDevice.Cuda, _gpu.Installation, limit, log?.Factory);
        configure?.Invoke(options);
        Driver.ForgetPeak();
        return ErnieModel.LoadAsync(path, options, progress, cancellationToken ?? TestContext.Current.CancellationToken);
    }

    /// <summary>The likeliest tokens, whatever they are.</summary>
    public static Task<List<int>> Answer(ErnieModel model, IReadOnlyList<int> prompt, int tokens = 4) =>
        model.GenerateAsync(prompt, new ErnieGenerationOptions { Temperature = 0, MaxTokens = tokens, IgnoreStopTokens = true }, TestContext.Current.CancellationToken).ToListAsync(TestContext.Current.CancellationToken).AsTask();
}
