using Ernie.Sdk.Engine;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Logging;

namespace Ernie.Sdk;

/// <summary>How <see cref="ErnieModel"/> loads and runs a model.</summary>
public sealed class ErnieModelOptions
{
    /// <summary>Requests that any model computes together at most.</summary>
    internal const int MostConcurrentRequests = 4096;

    /// <summary>Gets or sets what the model computes on.</summary>
    /// <value>The default is <see cref="ErnieDevice.Cpu"/>. A model that was exported once runs on either.</value>
    public ErnieDevice Device { get; set; }

    /// <summary>
    /// Gets or sets how many GPUs the model's layers are divided over. Each has consecutive ones, with their part of the KV cache, so that the fullest is as little full as can be; a step goes through them one after another, and
    /// the residual stream through memory of this process. So several GPUs hold models and conversations that one has no room for; they do not make one conversation faster. Results are those of one GPU.
    /// </summary>
    /// <remarks>The first GPUs that this process may use are taken: the environment variable <c>CUDA_VISIBLE_DEVICES</c> names others, or another order. <see cref="CudaGraphs"/> has no effect with several.</remarks>
    /// <value>The default is 1. Fewer usable GPUs, or more than the model has layers, are an <see cref="ErnieDeviceException"/>; <see cref="ErnieDevice.Auto"/> then takes the CPU.</value>
    public int GpuCount { get; set; } = 1;

    /// <summary>
    /// Gets or sets how much of a GPU's memory the model may take, of each GPU where there are several: weights, KV cache and what steps pass on. The driver's context and compiled kernels, some hundred megabytes, come on top. What does not fit stays in the
    /// CPU's memory and is computed there, by the plan that <see cref="ErniePlan"/> gives for that memory without a reserve: routed experts, about as many of each layer; where that is not enough with all of them, the
    /// embedding and the first layers with their part of the KV cache too. Results differ from a model that is wholly on the GPU as those of the CPU do. The log says what stays where.
    /// </summary>
    /// <remarks>
    /// Of a layer that is partly on the GPU, the experts there are its first ones at first. Between two steps an expert of the CPU that is clearly used more takes the place of one that is used less, one of all layers at a time. So
    /// the order of some sums changes while a model is used: the same request may give other last bits, and with the same seed other tokens, at another time. A model that is wholly on the GPU or on the CPU does not do that.
    /// </remarks>
    /// <value>
    /// In bytes. The default, <see langword="null"/>, is all that is free but for a reserve of 1 GiB and 2 %; more than that is never taken. Too little even for a model with all layers but the last on the CPU is an
    /// <see cref="ErnieDeviceException"/> that names the least; of several GPUs each keeps a layer. Where neither <see cref="ContextLength"/> nor <see cref="KvCacheBytes"/> is set and memory is short, experts and layers make room for a context of 8,192 tokens, or of
    /// what fits without them.
    /// </value>
    public long? GpuMemoryBytes { get; set; }

    /// <summary>
    /// Gets or sets whether decode steps of 1, 2, 4, 8 and 16 sequences on a GPU are captured as CUDA graphs when they first run, and replayed afterwards: launching some thousand kernels a step costs the CPU more than small models
    /// cost the GPU. Results are the same. The first step of each such number, and of each doubling of the longest sequence, takes a few times as long. Steps that the CPU has a part in, with experts or layers, and those of several GPUs are not captured. Where capturing fails,
    /// steps are launched kernel by kernel from then on, and <see cref="LoggerFactory"/> is told why.
    /// </summary>
    /// <value>The default is <see langword="false"/>: capturing was tested with an emulation of ONNX Runtime's CUDA provider only.</value>
    public bool CudaGraphs { get; set; }

    /// <summary>
    /// Gets or sets whether a kernel of this library may begin on a GPU of compute capability 9.0 (H100, H200) while the one before it ends, and bring its weights near meanwhile: what a launch costs is hidden then
    /// (programmatic dependent launch). Results are the same. Other GPUs ignore it.
    /// </summary>
    /// <value>The default is <see langword="false"/>: no GPU has confirmed yet that it works and helps.</value>
    public bool CudaOverlap { get; set; }

    /// <summary>Gets or sets how many threads compute, the engine's own included.</summary>
    /// <value>The default, <see langword="null"/>, is the number of processors. Results do not depend on it.</value>
    public int? Threads { get; set; }

    /// <summary>Gets or sets the element type of cached keys and values.</summary>
    /// <value>The default is <see cref="ErnieKvCacheType.BFloat16"/>.</value>
    public ErnieKvCacheType KvCacheType { get; set; }

    /// <summary>
    /// Gets or sets the largest size of the KV cache in bytes. Memory is taken as conversations grow. A request is admitted when its prompt fits beside what runs; when
    /// answers outgrow the cache, the youngest request waits and goes on later with the same result.
    /// </summary>
    /// <value>The default, <see langword="null"/>, is four full contexts, but at most half of the machine's memory. On a GPU all of it is taken when the model is loaded, and the default is at most what weights leave free.</value>
    public long? KvCacheBytes { get; set; }

    /// <summary>
    /// Gets or sets how much of the KV cache keeps, after a request has ended, the beginnings of prompts: a later prompt that begins the same way, as every turn of a conversation does, is not computed
    /// again. Results do not depend on it. Requests that need the memory get it.
    /// </summary>
    /// <value>In bytes; 0 keeps nothing. The default, <see langword="null"/>, is a quarter of the KV cache.</value>
    public long? PrefixCacheBytes { get; set; }

    /// <summary>Gets or sets the longest conversation in tokens, prompt and answer together.</summary>
    /// <value>At most what the model was trained for (131,072): more is an <see cref="ArgumentOutOfRangeException"/> when the model is loaded. The default, <see langword="null"/>, is just that. Where the KV cache holds less, the context is what it holds.</value>
    public int? ContextLength { get; set; }

    /// <summary>Gets or sets how many blocks of a long context are read. A request may say otherwise.</summary>
    /// <value>The default is PLAS with FastDeploy's limits: dense below 6,400 tokens of a prompt, and below 12,800 cached tokens in decode.</value>
    public ErnieSparseAttention SparseAttention { get; set; } = new();

    /// <summary>Gets or sets how many requests are computed together; more wait in order.</summary>
    /// <value>The default is 16.</value>
    public int MaxConcurrentRequests { get; set; } = 16;

    /// <summary>
    /// Gets or sets how many requests may wait beside the <see cref="MaxConcurrentRequests"/> that are computed together. One more is refused with <see cref="ErnieQueueFullException"/>. Where the KV cache
    /// has no room for so many at once, those that wait for memory count as waiting.
    /// </summary>
    /// <value>The default is 1,024. 0 lets none wait for a place.</value>
    public int MaxQueuedRequests { get; set; } = 1024;

    /// <summary>Gets or sets how many prompt tokens a step computes at most; a multiple of 128. Beside answers that are being written a step takes fewer: see the remarks of <see cref="ErnieModel"/>.</summary>
    /// <value>The default is 512.</value>
    public int PrefillChunkTokens { get; set; } = 512;

    /// <summary>
    /// Gets or sets whether weights of experts are read ahead of their use: those that a layer's router has chosen, and those that the next layer's is predicted to choose. It pays where the weight file
    /// does not fit into memory, and costs a few percent where it does. Results do not depend on it.
    /// </summary>
    /// <value>The default is <see cref="ErnieExpertPrefetch.Auto"/>. On a GPU <see cref="ErnieExpertPrefetch.On"/> is refused.</value>
    public ErnieExpertPrefetch ExpertPrefetch { get; set; }

    /// <summary>Whether predictions of experts are counted, and pages looked at, even where nothing is read ahead.</summary>
    internal bool MeasureExperts { get; set; }

    /// <summary>Gets or sets what the chat client does with a conversation that is too long for the context.</summary>
    /// <value>The default is <see cref="ErnieContextOverflow.Refuse"/>. Otherwise room is made for the answer too: <c>MaxOutputTokens</c>, or 1,024, at most a quarter of the context.</value>
    public ErnieContextOverflow ContextOverflow { get; set; }

    /// <summary>
    /// Gets or sets who shortens a conversation that is too long for the context, instead of <see cref="ContextOverflow"/>: it returns the messages to send, or <see langword="null"/> to refuse.
    /// It may be called by several threads at once.
    /// </summary>
    public Func<ErnieOverflowingConversation, IEnumerable<ChatMessage>?>? ContextOverflowHandler { get; set; }

    /// <summary>Gets or sets the chat format.</summary>
    /// <value>The default is <see cref="ErnieChatTemplate.Auto"/>.</value>
    public ErnieChatTemplate ChatTemplate { get; set; }

    /// <summary>Gets or sets how a checkpoint is exported when <see cref="ErnieModel.LoadAsync"/> is given one instead of an exported model.</summary>
    /// <value>The default exports int4 fitted to a calibration text. <see cref="ErnieExportOptions.Calibrate"/> set to <see langword="false"/> makes the first load much faster, and the model a little worse.</value>
    public ErnieExportOptions Export { get; set; } = new();

    /// <summary>Gets or sets the folder for such exports.</summary>
    /// <value>The default, <see langword="null"/>, is <c>ernie-sdk</c> in the user's local application data (on Linux <c>~/.local/share</c>).</value>
    /// <remarks>
    /// An export is found again by the checkpoint's content and the options of <see cref="Export"/>, not by path or times, so copies of a checkpoint share one. The content is told by names, lengths and headers of its files and by samples of
    /// every tensor, some 70 MB of a 21B checkpoint: whoever edits single bytes of weights in place deletes the export himself. Nothing is ever removed by the library; folders here may be deleted while no load uses them, by
    /// <c>ernie cache clear</c> or by hand.
    /// </remarks>
    public string? CacheDirectory { get; set; }

    /// <summary>Gets or sets where this library and ONNX Runtime log. Texts of prompts and answers are never logged.</summary>
    public ILoggerFactory? LoggerFactory { get; set; }

    /// <summary>Gets or sets whether ONNX Runtime may send telemetry as its official builds do by default. Only the first model loaded in a process decides.</summary>
    /// <value>The default is <see langword="false"/>: no socket is opened.</value>
    public bool AllowOnnxRuntimeTelemetry { get; set; }

    /// <summary>Kernels to compute with instead of the registry's choice: those of a measurement or a test. Whoever gives them disposes them, after the model.</summary>
    internal CpuKernels? Kernels { get; set; }

    /// <summary>Who is told of steps that a GPU has computed.</summary>
    internal StepObserver? Observer { get; set; }

    /// <summary>What the chat client's updates are timed by.</summary>
    internal TimeProvider Clock { get; set; } = TimeProvider.System;

    /// <summary>Where CUDA is looked for instead of the usual places.</summary>
    internal CudaInstallation? Installation { get; set; }

    /// <summary>Told, in place of the log, that a checkpoint is exported before it is loaded, and why.</summary>
    internal Action<string>? ExportNotice { get; set; }

    /// <summary>A copy that the caller cannot change any more.</summary>
    internal ErnieModelOptions Snapshot()
    {
        var copy = (ErnieModelOptions)MemberwiseClone();
        copy.Export = copy.Export?.Snapshot()!;
        return copy;
    }

    /// <param name="longest">Tokens that the model was trained for.</param>
    /// <param name="options">What was asked for.</param>
    internal static void CheckContext(int longest, ErnieModelOptions options)
    {
        if (options.ContextLength > longest) throw new ArgumentOutOfRangeException(nameof(options), options.ContextLength, $"ErnieModelOptions.ContextLength may be at most {longest}: the model was trained for no more.");
    }

    internal void Validate()
    {
        if (Threads is < 1 or > 1024) throw new ArgumentOutOfRangeException(nameof(Threads), Threads, "Threads must lie between 1 and 1024.");
        if (GpuCount < 1) throw new ArgumentOutOfRangeException(nameof(GpuCount), GpuCount, "GpuCount must be positive.");
        if (GpuMemoryBytes is < 1) throw new ArgumentOutOfRangeException(nameof(GpuMemoryBytes), GpuMemoryBytes, "GpuMemoryBytes must be positive.");
        if (KvCacheBytes is < 1) throw new ArgumentOutOfRangeException(nameof(KvCacheBytes), KvCacheBytes, "KvCacheBytes must be positive.");
        if (ContextLength is < 1) throw new ArgumentOutOfRangeException(nameof(ContextLength), ContextLength, "ContextLength must be positive.");
        if (MaxConcurrentRequests is < 1 or > MostConcurrentRequests) throw new ArgumentOutOfRangeException(nameof(MaxConcurrentRequests), MaxConcurrentRequests, "MaxConcurrentRequests must lie between 1 and 4096.");
        if (MaxQueuedRequests < 0) throw new ArgumentOutOfRangeException(nameof(MaxQueuedRequests), MaxQueuedRequests, "MaxQueuedRequests must not be negative.");
        if (PrefixCacheBytes is < 0) throw new ArgumentOutOfRangeException(nameof(PrefixCacheBytes), PrefixCacheBytes, "PrefixCacheBytes must not be negative.");
        if (PrefillChunkTokens < 128 || PrefillChunkTokens % 128 != 0) throw new ArgumentOutOfRangeException(nameof(PrefillChunkTokens), PrefillChunkTokens, "PrefillChunkTokens must be a positive multiple of 128.");
        if (!Enum.IsDefined(Device)) throw new ArgumentOutOfRangeException(nameof(Device), Device, "Use Cpu, Cuda or Auto.");
        if (!Enum.IsDefined(KvCacheType)) throw new ArgumentOutOfRangeException(nameof(KvCacheType), KvCacheType, "Use BFloat16, Float32 or Int8.");
        if (!Enum.IsDefined(ChatTemplate)) throw new ArgumentOutOfRangeException(nameof(ChatTemplate), ChatTemplate, "Use Auto, Standard or Thinking.");
        if (!Enum.IsDefined(ContextOverflow)) throw new ArgumentOutOfRangeException(nameof(ContextOverflow), ContextOverflow, "Use Refuse or DropOldestTurns.");
        if (!Enum.IsDefined(ExpertPrefetch)) throw new ArgumentOutOfRangeException(nameof(ExpertPrefetch), ExpertPrefetch, "Use Auto, On or Off.");
        ArgumentNullException.ThrowIfNull(Export);
        ArgumentNullException.ThrowIfNull(SparseAttention);
        _ = SparseAttention.Limits();
    }
}
