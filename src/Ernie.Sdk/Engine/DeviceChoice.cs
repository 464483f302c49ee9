using System.Globalization;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Engine;

/// <summary>Whether a model can compute on a GPU here, and if not, what is in the way.</summary>
internal static class DeviceChoice
{
    /// <summary>The piece that is ours. It goes when the operators have run on a GPU and agreed with the reference kernels there.</summary>
    public static CudaPiece Operators { get; } = new("CUDA operators", CudaPieceState.Missing, $"this version of Ernie.Sdk has none that have run on a GPU",
        Cure: "Use ErnieDevice.Cpu, or ErnieDevice.Auto, which takes the GPU once it can.");

    /// <summary>Finds out what an option asks for, before anything expensive is done.</summary>
    /// <param name="path">Folder of the model. Its headers say what it takes.</param>
    /// <param name="options">How it shall run.</param>
    /// <param name="installation">What is there of CUDA.</param>
    /// <param name="logger">Told what <see cref="ErnieDevice.Auto"/> means here.</param>
    /// <exception cref="ErnieDeviceException">The GPU is asked for and cannot be used.</exception>
    public static ErnieDevice Resolve(string path, ErnieModelOptions options, CudaInstallation installation, ILogger? logger)
    {
        if (options.Device == ErnieDevice.Cpu) return ErnieDevice.Cpu;
        var problem = Problem(path, options, installation);
        if (problem is null)
        {
            logger?.LogInformation("Device: {Gpu}.", CudaInstallation.Describe(installation.Gpu()));
            return ErnieDevice.Cuda;
        }
        if (options.Device == ErnieDevice.Cuda) throw new ErnieDeviceException(problem);
        logger?.LogInformation("Device: the CPU, because a GPU cannot be used. {Problem}", problem.Sentence);
        return ErnieDevice.Cpu;
    }

    private static CudaPiece? Problem(string path, ErnieModelOptions options, CudaInstallation installation) =>
        installation.Pieces().FirstOrDefault(static piece => piece.State != CudaPieceState.Present) ?? MemoryProblem(path, options, installation.Gpu()) ?? Operators;

    /// <summary>Null where the whole model fits beside a cache of the context that is asked for, or of one block.</summary>
    private static CudaPiece? MemoryProblem(string path, ErnieModelOptions options, CudaDevice gpu)
    {
        const string Name = "GPU memory";
        long free;
        try
        {
            using var primary = gpu.Retain();
            free = primary.FreeBytes();
        }
        catch (CudaException e)
        {
            return new CudaPiece(Name, CudaPieceState.Unfit, e.Message, Cure: e.IsOutOfMemory ? "Other processes fill the GPU: nvidia-smi lists them." : "The driver does not answer: nvidia-smi should say why.");
        }
        var (config, formats) = ErniePlan.Read(path, options.Export);
        var context = Math.Min(options.ContextLength ?? KvBlockLayout.BlockSize, config.ContextLength);
        var plan = new ErniePlan(config, formats, new ErniePlanOptions { GpuBytes = Math.Max(1, free), ContextLength = context, KvCacheType = options.KvCacheType, PrefillChunkTokens = options.PrefillChunkTokens });
        if (plan.IsWhollyOnGpus) return null;
        var reserve = plan.Gpus[0].ReserveBytes;
        var wanted = plan.WeightBytes + plan.KvCacheBytes + plan.Gpus[0].WorkspaceBytes + reserve;
        return new CudaPiece(Name, CudaPieceState.Unfit,
            string.Create(CultureInfo.InvariantCulture, $"{CudaInstallation.Describe(gpu)} has {free:N0} bytes free; the model takes {wanted:N0}: {plan.WeightBytes:N0} of weights, {plan.KvCacheBytes:N0} of cache for {plan.ContextLength:N0} tokens, {plan.Gpus[0].WorkspaceBytes:N0} of workspace, {reserve:N0} in reserve"),
            Cure: "Export to fewer bits, set a shorter ContextLength or a smaller KvCacheType, or use another GPU; 'ernie plan' says what fits.");
    }
}
