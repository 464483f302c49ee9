using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Engine;

/// <summary>How many KV blocks a model gets.</summary>
internal static class CacheBudget
{
    /// <summary>A pool is one tensor a layer, its blocks are numbered by int.</summary>
    public const int MostBlocks = int.MaxValue / 2;

    private const int DefaultContexts = 4;

    /// <param name="manifest">The model.</param>
    /// <param name="kvType">Element type of the cache.</param>
    /// <param name="options">How it shall run.</param>
    /// <param name="gpuBytes">What a GPU has left for the cache; null on the CPU.</param>
    /// <exception cref="ArgumentException">The budget holds not even one block.</exception>
    public static int BlockCount(ModelManifest manifest, KvElementType kvType, ErnieModelOptions options, long? gpuBytes = null)
    {
        var config = manifest.Config;
        var blockBytes = BlockBytes(manifest, kvType);
        var context = Math.Min(options.ContextLength ?? config.ContextLength, config.ContextLength);
        var wanted = (long)KvCache.BlocksFor(context) * DefaultContexts;
        var budget = options.KvCacheBytes ?? Math.Max(blockBytes, gpuBytes ?? GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / 2);
        var blocks = options.KvCacheBytes is null ? Math.Min(wanted, budget / blockBytes) : budget / blockBytes;
        if (blocks < 1) throw new ArgumentException($"KvCacheBytes is {budget}; one block of 128 tokens takes {blockBytes} bytes.", nameof(options));
        return (int)Math.Min(blocks, MostBlocks);
    }

    /// <summary>Blocks of <paramref name="blockCount"/> that may be kept for prompts to come.</summary>
    public static int IdleLimit(ModelManifest manifest, KvElementType kvType, ErnieModelOptions options, int blockCount) =>
        options.PrefixCacheBytes is { } bytes ? (int)Math.Min(blockCount, bytes / BlockBytes(manifest, kvType)) : blockCount / 4;

    private static long BlockBytes(ModelManifest manifest, KvElementType kvType) => MemoryPlan.For(manifest.Config, manifest.Formats, kvType, KvBlockLayout.BlockSize).CacheBytes;
}
