using System.Globalization;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Engine;

/// <summary>What of a model goes to GPUs, by the plan that <c>ernie plan</c> prints.</summary>
internal static class GpuPlacement
{
    /// <summary>Blocks that the cache has at least where nobody said how long conversations are: 8,192 tokens, if there is room for them with all layers but one on the CPU. Arbitrary.</summary>
    private const int DefaultBlocks = 64;

    /// <summary>Asks the GPUs what is free, and plans for them.</summary>
    /// <param name="config">The model.</param>
    /// <param name="formats">Formats of its matrices.</param>
    /// <param name="options">How it shall run.</param>
    /// <param name="installation">What is there of CUDA.</param>
    /// <param name="choice">What was found; null where there is a problem.</param>
    public static CudaPiece? Find(ErnieConfig config, ModelFormats formats, ErnieModelOptions options, CudaInstallation installation, out GpuChoice? choice)
    {
        choice = null;
        IReadOnlyList<CudaDevice> usable = [], gpus = [];
        var free = new List<long>();
        try
        {
            usable = installation.UsableGpus();
            gpus = [.. usable.Take(options.GpuCount)];
            foreach (var gpu in gpus)
            {
                using var primary = gpu.Retain();
                free.Add(primary.FreeBytes());
            }
        }
        catch (CudaException e)
        {
            var which = free.Count < gpus.Count ? $"{GpuChoice.Describe(gpus, free.Count)}: " : "";
            return new CudaPiece(DeviceChoice.MemoryName, CudaPieceState.Unfit, $"{which}{e.Message}", Cure: e.IsOutOfMemory ? "Other processes fill the GPU: nvidia-smi lists them." : "The driver does not answer: nvidia-smi should say why.");
        }
        if (gpus.Count < options.GpuCount)
        {
            return new CudaPiece(CudaInstallation.Gpus, CudaPieceState.Missing, string.Create(CultureInfo.InvariantCulture, $"GpuCount is {options.GpuCount}, but {gpus.Count} can be used: {string.Join("; ", gpus.Select(CudaInstallation.Describe))}"),
                Cure: string.Create(CultureInfo.InvariantCulture, $"Set GpuCount to {gpus.Count}, or see CUDA_VISIBLE_DEVICES; containers need docker run --gpus all."));
        }
        if (options.GpuCount > config.LayerCount)
            return new CudaPiece(CudaInstallation.Gpus, CudaPieceState.Unfit, string.Create(CultureInfo.InvariantCulture, $"GpuCount is {options.GpuCount}, but the model has {config.LayerCount} layers to divide"), Cure: string.Create(CultureInfo.InvariantCulture, $"Set GpuCount to {config.LayerCount} or less."));
        long[] reserves = [.. free.Select(ErniePlan.ReserveOf)];
        long[] budgets = [.. free.Zip(reserves, (free, reserve) => Math.Max(1, Math.Min(options.GpuMemoryBytes ?? long.MaxValue, free - reserve)))];
        var context = Math.Min(options.ContextLength ?? config.ContextLength, config.ContextLength);
        var blockBytes = MemoryPlan.For(config, formats, ErnieModel.KvTypeOf(options.KvCacheType), KvBlockLayout.BlockSize).CacheBytes;
        long? asked = options.KvCacheBytes is { } bytes ? Math.Clamp(bytes / blockBytes, 1, CacheBudget.MostBlocks) : options.ContextLength is null ? null : KvCache.BlocksFor(context);

        (ErniePlan Plan, StepSize Step) Plan(long blocks, int positions)
        {
            var plan = new ErniePlan(config, formats, new ErniePlanOptions
            {
                GpuBytes = budgets.Min(), GpuCount = budgets.Length, Capacities = budgets, ReserveBytes = 0, CacheBlocks = blocks, ContextLength = positions, Requests = options.MaxConcurrentRequests, KvCacheType = options.KvCacheType, PrefillChunkTokens = options.PrefillChunkTokens,
            });
            return (plan, StepSize.Of(options.PrefillChunkTokens, options.MaxConcurrentRequests, positions));
        }
        GpuChoice Choose(ErniePlan plan, StepSize size, long blocks) => new(gpus, installation, plan, size, blocks * blockBytes, options.GpuMemoryBytes is not null, usable.Count);
        int Positions(long blocks) => (int)Math.Min(context, blocks * KvBlockLayout.BlockSize);

        // All weights, beside a cache that gets what is left.
        var (whole, step) = Plan(asked ?? Math.Min(KvCache.BlocksFor(context), DefaultBlocks), asked is { } count ? Positions(count) : context);
        if (whole.IsWhollyOnGpus)
        {
            choice = Choose(whole, step, whole.Gpus.Min(gpu => (gpu.KvCacheBytes + gpu.FreeBytes) / (blockBytes / config.LayerCount * gpu.LayerCount)));
            return null;
        }
        for (var blocks = asked ?? Math.Min(KvCache.BlocksFor(context), DefaultBlocks); ; blocks /= 2)
        {
            var (part, size) = Plan(blocks, Positions(blocks));
            if (part.Fits)
            {
                choice = Choose(part, size, blocks);
                return null;
            }
            if (asked is null && blocks > 1) continue;
            var (least, worst) = (part.LeastBytes, part.Gpus.Index().MinBy(static gpu => gpu.Item.FreeBytes).Index);
            var limit = options.GpuMemoryBytes is { } most && most < free[worst] - reserves[worst] ? string.Create(CultureInfo.InvariantCulture, $", of which GpuMemoryBytes allows {most:N0}") : "";
            var rest = config.LayerCount == gpus.Count ? "the model" : gpus.Count == 1 ? "with all layers but the last on the CPU the model still" : "with all layers but one for each GPU on the CPU the model still";
            return new CudaPiece(DeviceChoice.MemoryName, CudaPieceState.Unfit,
                string.Create(CultureInfo.InvariantCulture, $"{GpuChoice.Describe(gpus, worst)} has {free[worst]:N0} bytes free, {Math.Min(free[worst], reserves[worst]):N0} of them in reserve{limit}; {rest} takes at least {least:N0}{(gpus.Count == 1 ? "" : " of a GPU")}, beside the reserve: {part.Gpus[worst].WeightBytes:N0} of weights, {part.Gpus[worst].KvCacheBytes:N0} of cache for {blocks * KvBlockLayout.BlockSize:N0} tokens, {part.Gpus[worst].WorkspaceBytes:N0} of workspace"),
                Cure: $"{(limit.Length > 0 && least <= free[worst] - reserves[worst] ? string.Create(CultureInfo.InvariantCulture, $"Set GpuMemoryBytes to {least:N0} or more. ") : "")}Export to fewer bits, set a shorter ContextLength, a smaller KvCacheBytes, KvCacheType or MaxConcurrentRequests, or use {(gpus.Count == 1 ? "another GPU" : "other GPUs (CUDA_VISIBLE_DEVICES) or a smaller GpuCount")}; 'ernie plan' says what fits.");
        }
    }
}
