using System.Globalization;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Engine;

/// <summary>Whether a model can compute on a GPU here, and if not, what is in the way.</summary>
internal static class DeviceChoice
{
    public const string MemoryName = "GPU memory";

    /// <summary>Finds out what an option asks for, before anything expensive is done.</summary>
    /// <param name="path">Folder of the model. Its headers say what it takes.</param>
    /// <param name="options">How it shall run.</param>
    /// <param name="installation">What is there of CUDA.</param>
    /// <param name="logger">Told what <see cref="ErnieDevice.Auto"/> means here.</param>
    /// <returns>Null for the CPU.</returns>
    /// <exception cref="ErnieDeviceException">The GPU is asked for and cannot be used.</exception>
    public static GpuChoice? Resolve(string path, ErnieModelOptions options, CudaInstallation installation, ILogger? logger)
    {
        if (options.Device == ErnieDevice.Cpu) return null;
        GpuChoice? choice = null;
        var problem = OptionProblem(options) ?? installation.Pieces().FirstOrDefault(static piece => piece.State != CudaPieceState.Present) ?? ModelProblem(path, options, installation, out choice);
        if (choice is not null)
        {
            logger?.LogInformation("Device: {Gpu}. The CUDA kernels of this version were checked by emulation on a CPU, never on a GPU.", CudaInstallation.Describe(choice.Device));
            return choice;
        }
        if (options.Device == ErnieDevice.Cuda) throw new ErnieDeviceException(problem!);
        LogCpu(logger, problem!.Sentence);
        return null;
    }

    /// <summary>Says that <see cref="ErnieDevice.Auto"/> means the CPU.</summary>
    public static void LogCpu(ILogger? logger, string problem) => logger?.LogInformation("Device: the CPU, because a GPU cannot be used. {Problem}", problem);

    /// <summary>What only the CPU has.</summary>
    private static CudaPiece? OptionProblem(ErnieModelOptions options)
    {
        const string Name = "Options";
        if (options.ExpertPrefetch == ErnieExpertPrefetch.On) return new CudaPiece(Name, CudaPieceState.Unfit, "ExpertPrefetch is On, but on a GPU all weights are in its memory and none are read ahead", Cure: "Leave ExpertPrefetch at Auto.");
        if (options.Kernels is not null || options.MeasureExperts) return new CudaPiece(Name, CudaPieceState.Unfit, "kernels of the CPU are to be measured", Cure: "Use ErnieDevice.Cpu.");
        return null;
    }

    /// <summary>What the kernels cannot compute, or memory cannot hold.</summary>
    private static CudaPiece? ModelProblem(string path, ErnieModelOptions options, CudaInstallation installation, out GpuChoice? choice)
    {
        choice = null;
        var (config, formats) = ErniePlan.Read(path, options.Export);
        var limit = config.HeadDim > CudaLaunches.MaxHeadDim || config.HeadDim % 16 != 0 ? $"heads have 16, 32, .. {CudaLaunches.MaxHeadDim} channels, those of the model {config.HeadDim}"
            : config.MoeLayerCount > 0 && config.ExpertCount > CudaLaunches.MaxExperts ? $"a layer has {CudaLaunches.MaxExperts} experts at most, those of the model {config.ExpertCount}"
            : KvCache.BlocksFor(config.ContextLength) > CudaLaunches.MaxSparseBlocks ? $"a context has {CudaLaunches.MaxSparseBlocks * KvBlockLayout.BlockSize:N0} tokens at most, that of the model {config.ContextLength:N0}"
            : null;
        if (limit is not null) return new CudaPiece("CUDA kernels", CudaPieceState.Unfit, limit, Cure: "Use ErnieDevice.Cpu.");
        return MemoryProblem(config, formats, options, installation, out choice);
    }

    /// <summary>Null where the whole model fits beside a cache of the context that is asked for, or of one block.</summary>
    private static CudaPiece? MemoryProblem(ErnieConfig config, ModelFormats formats, ErnieModelOptions options, CudaInstallation installation, out GpuChoice? choice)
    {
        choice = null;
        CudaDevice gpu;
        long free;
        try
        {
            gpu = installation.Gpu();
            using var primary = gpu.Retain();
            free = primary.FreeBytes();
        }
        catch (CudaException e)
        {
            return new CudaPiece(MemoryName, CudaPieceState.Unfit, e.Message, Cure: e.IsOutOfMemory ? "Other processes fill the GPU: nvidia-smi lists them." : "The driver does not answer: nvidia-smi should say why.");
        }
        var context = Math.Min(options.ContextLength ?? KvBlockLayout.BlockSize, config.ContextLength);
        var plan = new ErniePlan(config, formats, new ErniePlanOptions { GpuBytes = Math.Max(1, free), ContextLength = context, KvCacheType = options.KvCacheType, PrefillChunkTokens = options.PrefillChunkTokens });
        // The provider looks tokens up in a copy of its own.
        var lookup = formats.SharesEmbedding(config) ? MemoryPlan.For(config, formats, KvElementType.BFloat16, 1).EmbeddingBytes : 0;
        var (workspace, reserve) = (plan.Gpus[0].WorkspaceBytes, plan.Gpus[0].ReserveBytes);
        var weights = plan.WeightBytes + lookup;
        var cache = free - weights - workspace - reserve;
        if (plan.IsWhollyOnGpus && cache >= plan.KvCacheBytes)
        {
            choice = new GpuChoice(gpu, installation, cache);
            return null;
        }
        return new CudaPiece(MemoryName, CudaPieceState.Unfit,
            string.Create(CultureInfo.InvariantCulture, $"{CudaInstallation.Describe(gpu)} has {free:N0} bytes free; the model takes {weights + plan.KvCacheBytes + workspace + reserve:N0}: {weights:N0} of weights, {plan.KvCacheBytes:N0} of cache for {plan.ContextLength:N0} tokens, {workspace:N0} of workspace, {reserve:N0} in reserve"),
            Cure: "Export to fewer bits, set a shorter ContextLength or a smaller KvCacheType, or use another GPU; 'ernie plan' says what fits.");
    }
}
