using System.CommandLine;
using Ernie.Cli.Measuring;
using Ernie.Sdk;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Microsoft.Extensions.Logging;

namespace Ernie.Cli;

/// <summary>The argument MODEL and the options that say how it runs.</summary>
internal sealed class ModelOptions
{
    private readonly Argument<string> _model = new("MODEL") { Description = "An exported model, or a checkpoint, which is exported into the cache first, as int4." };
    private readonly Option<int> _threads = new Option<int>("--threads") { Description = "Threads that compute. Results do not depend on it.", DefaultValueFactory = static _ => Environment.ProcessorCount, HelpName = "N" }.InRange(1, 1024);
    private readonly Option<string> _device = new Option<string>("--device") { Description = "What computes. cuda fails, and says why, where a GPU cannot be used; auto then takes the CPU and says so in the log. The CUDA kernels of this version have never run on a GPU.", DefaultValueFactory = static _ => "cpu" }.AcceptOnlyFromAmong("cpu", "cuda", "auto");
    private readonly Option<int> _gpuCount = new Option<int>("--gpu-count") { Description = "GPUs that the model's layers are divided over.", DefaultValueFactory = static _ => 1, HelpName = "N" }.InRange(1, 1024);
    private readonly Option<string?> _gpuMemory = CommonOptions.Bytes("--gpu-memory", "Most memory that the model takes of a GPU, such as 12GB; experts and layers that do not fit are computed on the CPU. [default: all that is free but for 1 GiB and 2 %]");
    private readonly Option<bool> _graphs = new("--cuda-graphs") { Description = "Capture decode steps of a GPU as CUDA graphs." };
    private readonly Option<bool> _overlap = new("--cuda-overlap") { Description = "Let kernels of a Hopper GPU begin while the ones before them end." };
    private readonly Option<string> _kv;
    private readonly Option<string>? _attention;
    private readonly Option<string?> _kernels = new Option<string?>("--kernels") { Description = $"Kernel family, instead of the best that this machine runs (or of the variable {KernelRegistry.EnvironmentVariable})." }
        .AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, [.. KernelRegistry.All.Select(static k => k.Name)]);
    private readonly Option<string?> _cache = CommonOptions.Cache();
    private readonly Option<string> _prefetch = new Option<string>("--expert-prefetch") { Description = "Read experts' weights ahead of their use: auto does where the weights exceed the memory.", DefaultValueFactory = static _ => "auto" }.AcceptOnlyFromAmong("auto", "on", "off");
    private readonly Option<LogLevel> _logLevel = CommonOptions.LogLevel();

    /// <summary>Commands that compare numbers cache in fp32; one that measures does what the library does.</summary>
    private ModelOptions(string defaultKv, string? defaultAttention)
    {
        _attention = defaultAttention is null ? null : AttentionOption.Create(defaultAttention);
        _kv = new Option<string>("--kv") { Description = "Element type of cached keys and values.", DefaultValueFactory = _ => defaultKv }.AcceptOnlyFromAmong("fp32", "bf16", "int8");
    }

    public static ModelOptions AddTo(Command command, Argument<string?>? input = null, string defaultKv = "fp32", string? defaultAttention = null, IReadOnlyList<Option>? first = null)
    {
        var options = new ModelOptions(defaultKv, defaultAttention);
        command.Add(options._model);
        if (input is not null) command.Add(input);
        // In the help, what the command is for stands before how the model is run.
        foreach (var option in first ?? []) command.Add(option);
        if (options._attention is not null) command.Add(options._attention);
        foreach (var option in new Option[] { options._kv, options._threads, options._device, options._gpuCount, options._gpuMemory, options._graphs, options._overlap, options._cache, options._prefetch, options._kernels, options._logLevel }) command.Add(option);
        command.Validators.Add(result =>
        {
            if (result.GetValue(options._device) is "cuda" or "auto") return;
            foreach (var option in new Option[] { options._gpuCount, options._gpuMemory, options._graphs, options._overlap })
            {
                if (result.GetResult(option) is { Implicit: false }) result.AddError($"{option.Name} is for a GPU: add --device cuda or --device auto.");
            }
        });
        return options;
    }

    public ILoggerFactory Logger(ParseResult result, CommandStreams streams) => new StandardErrorLogger(streams.Error, result.GetValue(_logLevel));

    public int Threads(ParseResult result) => result.GetValue(_threads);

    public int GpuCount(ParseResult result) => result.GetValue(_gpuCount);

    private ErnieSparseAttention Attention(ParseResult result) => (_attention is null ? null : AttentionOption.Parse(result.GetValue(_attention)!)) ?? new ErnieSparseAttention();

    /// <summary>Element type of the cache.</summary>
    public KvElementType KvType(ParseResult result) => ErnieModel.KvTypeOf(CommonOptions.KvCacheTypeOf(result.GetValue(_kv)!));

    /// <summary>Where CUDA is, if the model computes on a GPU; null: on the CPU.</summary>
    /// <exception cref="ErnieDeviceException">The GPU is asked for and cannot be used.</exception>
    public CudaInstallation? Gpu(ParseResult result, CommandStreams streams)
    {
        var device = DeviceOf(result);
        if (device == ErnieDevice.Cpu) return null;
        OrtRuntime.Start(null, allowTelemetry: false);
        var installation = streams.Installation ?? CudaInstallation.Default;
        var options = new ErnieModelOptions { Device = device, KvCacheType = CommonOptions.KvCacheTypeOf(result.GetValue(_kv)!), GpuCount = GpuCount(result), GpuMemoryBytes = GpuMemory(result) };
        return DeviceChoice.Resolve(result.GetValue(_model)!, options, installation, null) is null ? null : installation;
    }

    private ErnieDevice DeviceOf(ParseResult result) => result.GetValue(_device) switch { "cuda" => ErnieDevice.Cuda, "auto" => ErnieDevice.Auto, _ => ErnieDevice.Cpu };

    private long? GpuMemory(ParseResult result) => result.GetValue(_gpuMemory) is { } memory ? Size.Parse(memory) : null;

    /// <summary>What to measure at depth. The model is loaded once, which exports a checkpoint and checks an exported model.</summary>
    public async Task<DepthBenchmarkPlan> AtDepthAsync(ParseResult result, CommandStreams streams, IReadOnlyList<int> depths, int runs, int steps, CancellationToken cancellationToken)
    {
        if (GpuCount(result) > 1) throw new ArgumentException("--depth measures the layers of one GPU: leave --gpu-count out.");
        var installation = Gpu(result, streams);
        var kernels = KernelRegistry.Choose();
        var model = await LoadAsync(result, streams, maxConcurrentRequests: 1, cancellationToken, wrap: installation is null ? chosen => kernels = chosen : null).ConfigureAwait(false);
        await model.DisposeAsync().ConfigureAwait(false);
        var longest = ModelManifest.Read(model.Path).Config.ContextLength;
        if (depths.Max() > longest) throw new InvalidDataException($"--depth: {model.ModelId} has a context of {longest} tokens, {depths.Max()} are too many.");
        return new DepthBenchmarkPlan
        {
            Model = model.Path, Depths = depths, Limits = Attention(result).Limits(), Threads = Threads(result), Runs = runs, Steps = steps, Kernels = kernels, Installation = installation,
            KvType = KvType(result),
        };
    }

    /// <param name="result">The parsed options.</param>
    /// <param name="streams">Where progress and log go.</param>
    /// <param name="maxConcurrentRequests">Requests computed together.</param>
    /// <param name="cancellationToken">Stops loading.</param>
    /// <param name="measureExperts">Whether pages of experts are looked at before their use.</param>
    /// <param name="wrap">What to compute with in place of the chosen kernels.</param>
    /// <param name="attention">How many blocks are read, if not what the options say.</param>
    /// <param name="kv">Element type of the cache, likewise.</param>
    /// <param name="configure">Last changes.</param>
    public async Task<ErnieModel> LoadAsync(ParseResult result, CommandStreams streams, int maxConcurrentRequests, CancellationToken cancellationToken, bool measureExperts = false, Func<CpuKernels, CpuKernels>? wrap = null, ErnieSparseAttention? attention = null, string? kv = null, Action<ErnieModelOptions>? configure = null)
    {
        var logger = Logger(result, streams);
        var options = new ErnieModelOptions
        {
            Device = DeviceOf(result),
            Installation = streams.Installation,
            GpuCount = GpuCount(result),
            GpuMemoryBytes = GpuMemory(result),
            CudaGraphs = result.GetValue(_graphs),
            CudaOverlap = result.GetValue(_overlap),
            Threads = result.GetValue(_threads),
            KvCacheType = CommonOptions.KvCacheTypeOf(kv ?? result.GetValue(_kv)!),
            CacheDirectory = result.GetValue(_cache),
            LoggerFactory = logger,
            ExpertPrefetch = result.GetValue(_prefetch) switch { "on" => ErnieExpertPrefetch.On, "off" => ErnieExpertPrefetch.Off, _ => ErnieExpertPrefetch.Auto },
            MeasureExperts = measureExperts,
            SparseAttention = attention ?? Attention(result),
            MaxConcurrentRequests = maxConcurrentRequests,
            ExportNotice = text => streams.Error.WriteLine($"ernie: {text}"),
            Export = new ErnieExportOptions { Logger = logger.CreateLogger("export") },
        };
        configure?.Invoke(options);
        // The variable is how any host chooses kernels; the library reads it while loading.
        var before = Environment.GetEnvironmentVariable(KernelRegistry.EnvironmentVariable);
        if (result.GetValue(_kernels) is { } kernels) Environment.SetEnvironmentVariable(KernelRegistry.EnvironmentVariable, kernels);
        try
        {
            if (wrap is not null) options.Kernels = wrap(KernelRegistry.Choose());
            using var progress = new ProgressLine(streams, "export");
            return await ErnieModel.LoadAsync(result.GetValue(_model)!, options, progress, cancellationToken).ConfigureAwait(false);
        }
        finally
        {
            Environment.SetEnvironmentVariable(KernelRegistry.EnvironmentVariable, before);
        }
    }
}
