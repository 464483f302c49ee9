using System.Globalization;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Engine;

/// <summary>What of a model goes to a GPU, by the plan that <c>ernie plan</c> prints.</summary>
internal static class GpuPlacement
{
    /// <summary>Blocks that the cache has at least where nobody said how long conversations are: 8,192 tokens, if there is room for them with all layers but one on the CPU. Arbitrary.</summary>
    private const int DefaultBlocks = 64;

    /// <summary>Asks the GPU what is free, and plans for it.</summary>
    /// <param name="config">The model.</param>
    /// <param name="formats">Formats of its matrices.</param>
    /// <param name="options">How it shall run.</param>
    /// <param name="installation">What is there of CUDA.</param>
    /// <param name="choice">What was found; null where there is a problem.</param>
    public static CudaPiece? Find(ErnieConfig config, ModelFormats formats, ErnieModelOptions options, CudaInstallation installation, out GpuChoice? choice)
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
            return new CudaPiece(DeviceChoice.MemoryName, CudaPieceState.Unfit, e.Message, Cure: e.IsOutOfMemory ? "Other processes fill the GPU: nvidia-smi lists them." : "The driver does not answer: nvidia-smi should say why.");
        }
        var reserve = ErniePlan.ReserveOf(free);
        var budget = Math.Min(options.GpuMemoryBytes ?? long.MaxValue, free - reserve);
        var context = Math.Min(options.ContextLength ?? config.ContextLength, config.ContextLength);
        var blockBytes = MemoryPlan.For(config, formats, ErnieModel.KvTypeOf(options.KvCacheType), KvBlockLayout.BlockSize).CacheBytes;
        long? asked = options.KvCacheBytes is { } bytes ? Math.Clamp(bytes / blockBytes, 1, CacheBudget.MostBlocks) : options.ContextLength is null ? null : KvCache.BlocksFor(context);

        (ErniePlan Plan, StepSize Step) Plan(long blocks, int positions)
        {
            var plan = new ErniePlan(config, formats, new ErniePlanOptions
            {
                GpuBytes = Math.Max(1, budget), ReserveBytes = 0, CacheBlocks = blocks, ContextLength = positions, Requests = options.MaxConcurrentRequests, KvCacheType = options.KvCacheType, PrefillChunkTokens = options.PrefillChunkTokens,
            });
            return (plan, StepSize.Of(options.PrefillChunkTokens, options.MaxConcurrentRequests, positions));
        }
        int Positions(long blocks) => (int)Math.Min(context, blocks * KvBlockLayout.BlockSize);

        // All weights, beside a cache that gets what is left.
        var (whole, step) = Plan(asked ?? Math.Min(KvCache.BlocksFor(context), DefaultBlocks), asked is { } count ? Positions(count) : context);
        if (whole.IsWhollyOnGpus)
        {
            choice = new GpuChoice(gpu, installation, whole, step, whole.Gpus[0].KvCacheBytes + whole.Gpus[0].FreeBytes, options.GpuMemoryBytes is not null);
            return null;
        }
        for (var blocks = asked ?? Math.Min(KvCache.BlocksFor(context), DefaultBlocks); ; blocks /= 2)
        {
            var (part, size) = Plan(blocks, Positions(blocks));
            if (part.Fits)
            {
                choice = new GpuChoice(gpu, installation, part, size, part.Gpus[0].KvCacheBytes + part.CpuKvCacheBytes, options.GpuMemoryBytes is not null);
                return null;
            }
            if (asked is null && blocks > 1) continue;
            var least = part.LeastBytes;
            var limit = options.GpuMemoryBytes is { } most && most < free - reserve ? string.Create(CultureInfo.InvariantCulture, $", of which GpuMemoryBytes allows {most:N0}") : "";
            var rest = config.LayerCount > 1 ? "with all layers but the last on the CPU the model still" : "the model";
            return new CudaPiece(DeviceChoice.MemoryName, CudaPieceState.Unfit,
                string.Create(CultureInfo.InvariantCulture, $"{CudaInstallation.Describe(gpu)} has {free:N0} bytes free, {reserve:N0} of them in reserve{limit}; {rest} takes at least {least:N0}, beside the reserve: {part.Gpus[0].WeightBytes:N0} of weights, {part.Gpus[0].KvCacheBytes:N0} of cache for {blocks * KvBlockLayout.BlockSize:N0} tokens, {part.Gpus[0].WorkspaceBytes:N0} of workspace"),
                Cure: $"{(limit.Length > 0 && least <= free - reserve ? string.Create(CultureInfo.InvariantCulture, $"Set GpuMemoryBytes to {least:N0} or more. ") : "")}Export to fewer bits, set a shorter ContextLength, a smaller KvCacheBytes, KvCacheType or MaxConcurrentRequests, or use another GPU; 'ernie plan' says what fits.");
        }
    }
}
