using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Engine;

/// <summary>What the log says of the device that a model is computed on.</summary>
internal static partial class DeviceLog
{
    [LoggerMessage(1, LogLevel.Information, "Device: {Gpu}. The CUDA kernels of this version were checked by emulation on a CPU, never on a GPU.")]
    public static partial void Gpu(ILogger logger, string gpu);

    [LoggerMessage(2, LogLevel.Information, "Device: the CPU, because a GPU cannot be used. {Problem}")]
    public static partial void Cpu(ILogger logger, string problem);

    [LoggerMessage(3, LogLevel.Information, "{Bytes:N0} bytes of weights stay on the CPU and are computed there, because {Memory:N0} bytes of GPU memory are too few for all: {Parts}. {Gpu} {GpuBytes:N0} bytes of weights and {CacheBytes:N0} of KV cache.")]
    public static partial void Offload(ILogger logger, long bytes, long memory, string parts, string gpu, long gpuBytes, long cacheBytes);

    [LoggerMessage(4, LogLevel.Information, "Experts that are used more have taken the places of others on {Gpu}, {Moves:N0} since loading. Of the latest choices in the layers that it has a part of, its experts have {Share:P0}.")]
    public static partial void ExpertsMoved(ILogger logger, string gpu, long moves, double share);

    [LoggerMessage(5, LogLevel.Information, "CUDA graphs: off, because {Reason}.")]
    public static partial void NoGraphs(ILogger logger, string reason);

    [LoggerMessage(7, LogLevel.Information, "GPU {Number}: layers {First}-{Last}, {Bytes:N0} bytes of weights, {Gpu}.")]
    public static partial void Part(ILogger logger, int number, int first, int last, long bytes, string gpu);

    [LoggerMessage(8, LogLevel.Information, "There are {Usable} usable GPUs: with a GpuCount of more than {Count}, less would stay on the CPU.")]
    public static partial void MoreGpus(ILogger logger, int usable, int count);

    [LoggerMessage(6, LogLevel.Warning, "CUDA graphs are off from now on: a decode step could not be captured or replayed. Steps are launched kernel by kernel, with the same results. {Problem}")]
    public static partial void GraphsGivenUp(ILogger logger, string problem);
}
