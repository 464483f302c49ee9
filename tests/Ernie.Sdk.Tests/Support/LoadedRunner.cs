using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Tests.Support;

/// <summary>A model exported to a temporary folder with debug outputs, and a runner over it without engine or tokenizer.</summary>
internal sealed class LoadedRunner : IDisposable
{
    private readonly TemporaryFolder? _folder;

    public LoadedRunner(string checkpoint, ErniePrecision precision = ErniePrecision.BFloat16, KvElementType kvType = KvElementType.Float32, int threads = 2, CpuKernels? kernels = null, int blocks = 64)
        : this(null, checkpoint, Both(precision), kvType, threads, kernels, blocks)
    {
    }

    public LoadedRunner(IWeightSource source, KvElementType kvType = KvElementType.Float32, int threads = 2, CpuKernels? kernels = null, int blocks = 64, ErniePrecision precision = ErniePrecision.BFloat16)
        : this(source, null, Both(precision), kvType, threads, kernels, blocks)
    {
    }

    public LoadedRunner(IWeightSource source, ErnieExportOptions options, CpuKernels kernels)
        : this(source, null, options, KvElementType.Float32, 2, kernels, 64)
    {
    }

    private LoadedRunner(IWeightSource? source, string? checkpoint, ErnieExportOptions options, KvElementType kvType, int threads, CpuKernels? kernels, int blocks)
    {
        OrtRuntime.Start(null, allowTelemetry: false);
        _folder = new TemporaryFolder();
        Folder = _folder.File("model");
        using var opened = source is null ? Checkpoint.Open(checkpoint!) : null;
        options.DebugOutputs = true;
        ErnieExporter.Export(source ?? opened!, checkpoint, Folder, options, null, CancellationToken.None);
        Manifest = ModelManifest.Read(Folder);
        Runner = new ModelRunner(Folder, Manifest, kvType, blocks, threads, kernels ?? KernelRegistry.Choose());
    }

    private static ErnieExportOptions Both(ErniePrecision precision) => new() { Experts = precision, Dense = precision };

    private LoadedRunner(string folder, ModelManifest manifest, ModelRunner runner) => (Folder, Manifest, Runner) = (folder, manifest, runner);

    /// <summary>Another runner over the same files, which must not outlive this one.</summary>
    public LoadedRunner Again(KvElementType kvType = KvElementType.Float32, int threads = 2, CpuKernels? kernels = null, int blocks = 64) =>
        new(Folder, Manifest, new ModelRunner(Folder, Manifest, kvType, blocks, threads, kernels ?? KernelRegistry.Choose()));

    public string Folder { get; }
    public ModelManifest Manifest { get; }
    public ModelRunner Runner { get; }

    /// <summary>Logits [tokens, vocabulary] of a text, computed in chunks of these sizes (the last repeats), in blocks of its own that are freed afterwards.</summary>
    public float[] Logits(ReadOnlySpan<int> ids, params int[] chunks)
    {
        var table = Allocate(ids.Length);
        var result = new List<float>();
        var batch = new StepBatch();
        for (int start = 0, c = 0; start < ids.Length; c++)
        {
            var count = Math.Min(ids.Length - start, chunks.Length == 0 ? ids.Length : chunks[Math.Min(c, chunks.Length - 1)]);
            batch.Clear();
            batch.Add(ids.Slice(start, count), start, table, count == 1 ? SequenceFlags.Decode : SequenceFlags.None, SparseLimits.Dense, count);
            result.AddRange(Runner.Run(batch));
            start += count;
        }
        Free(table);
        return [.. result];
    }

    /// <summary>Greedy continuation, one decode step a token.</summary>
    public int[] Greedy(ReadOnlySpan<int> prompt, int count)
    {
        var table = Allocate(prompt.Length + count);
        var batch = new StepBatch();
        batch.Add(prompt, 0, table, SequenceFlags.None, SparseLimits.Dense, 1);
        var tokens = new int[count];
        for (var i = 0; i < count; i++)
        {
            tokens[i] = Sampler.ArgMax(Runner.Run(batch));
            batch.Clear();
            batch.Add([tokens[i]], prompt.Length + i, table, SequenceFlags.Decode, SparseLimits.Dense, 1);
        }
        Free(table);
        return tokens;
    }

    public List<int> Allocate(int tokens) => [.. Enumerable.Range(0, KvCache.BlocksFor(tokens)).Select(_ => Runner.Cache.Allocate())];

    public void Free(List<int> table)
    {
        foreach (var block in table) Runner.Cache.Release(block);
    }

    public void Dispose()
    {
        Runner.Dispose();
        _folder?.Dispose();
    }
}
