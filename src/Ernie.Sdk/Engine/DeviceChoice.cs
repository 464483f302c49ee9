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
            if (logger is null) return choice;
            Log(logger, choice, options);
            return choice;
        }
        if (options.Device == ErnieDevice.Cuda) throw new ErnieDeviceException(problem!);
        LogCpu(logger, problem!.Sentence);
        return null;
    }

    /// <summary>Says that <see cref="ErnieDevice.Auto"/> means the CPU.</summary>
    public static void LogCpu(ILogger? logger, string problem)
    {
        if (logger is not null) DeviceLog.Cpu(logger, problem);
    }

    private static void Log(ILogger logger, GpuChoice choice, ErnieModelOptions options)
    {
        var (plan, gpus) = (choice.Plan, choice.Devices);
        DeviceLog.Gpu(logger, string.Join("; ", gpus.Select(CudaInstallation.Describe)));
        for (var i = 0; i < gpus.Count && gpus.Count > 1; i++) DeviceLog.Part(logger, i, plan.Gpus[i].Layers.First, plan.Gpus[i].Layers.Last, plan.Gpus[i].WeightBytes, CudaInstallation.Describe(gpus[i]));
        if (!plan.IsWhollyOnGpus)
        {
            DeviceLog.Offload(logger, plan.CpuWeightBytes, plan.Gpus.Sum(static gpu => gpu.CapacityBytes), plan.DescribeCpu(), gpus.Count == 1 ? "The GPU has" : "The GPUs have", plan.Gpus.Sum(static gpu => gpu.WeightBytes), plan.Gpus.Sum(static gpu => gpu.KvCacheBytes));
            // Each needs a layer.
            if (choice.UsableCount > gpus.Count && plan.Gpus[^1].Layers.Last >= gpus.Count) DeviceLog.MoreGpus(logger, choice.UsableCount, gpus.Count);
        }
        if (options.CudaGraphs && (gpus.Count > 1 || !plan.IsWhollyOnGpus)) DeviceLog.NoGraphs(logger, plan.IsWhollyOnGpus ? "several GPUs compute each step one after another" : "the CPU computes a part of each step");
    }

    /// <summary>What only the CPU has.</summary>
    private static CudaPiece? OptionProblem(ErnieModelOptions options)
    {
        const string Name = "Options";
        if (options.ExpertPrefetch == ErnieExpertPrefetch.On) return new CudaPiece(Name, CudaPieceState.Unfit, "ExpertPrefetch is On, but beside a GPU no weights are read ahead", Cure: "Leave ExpertPrefetch at Auto.");
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
        return GpuPlacement.Find(config, formats, options, installation, out choice);
    }
}
