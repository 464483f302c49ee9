using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.GpuTests.Models;

/// <summary>Greedy answers of some sequences at once, step by step without an engine, so that every decode step has all of them.</summary>
internal sealed class DecodeSteps : IDisposable
{
    private readonly ModelRunner _runner;
    private readonly int _vocabSize, _blocks;

    /// <param name="installation">Where CUDA is.</param>
    /// <param name="folder">Of the export.</param>
    /// <param name="sequences">At most.</param>
    /// <param name="tokens">Of a sequence, at most.</param>
    /// <param name="graphs">Whether decode steps are captured.</param>
    /// <param name="overlaps">Whether kernels may begin while the ones before them end.</param>
    /// <param name="cancellationToken">Ends loading.</param>
    public DecodeSteps(CudaInstallation installation, string folder, int sequences, int tokens, bool graphs, bool overlaps, CancellationToken cancellationToken)
    {
        var manifest = ModelManifest.Read(folder);
        _vocabSize = manifest.Config.VocabSize;
        var gpu = DeviceChoice.Resolve(folder, new ErnieModelOptions { Device = ErnieDevice.Cuda, KvCacheType = ErnieKvCacheType.Float32, PrefillChunkTokens = KvBlockLayout.BlockSize, MaxConcurrentRequests = sequences }, installation, null)!;
        _blocks = KvCache.BlocksFor(tokens);
        _runner = new ModelRunner(folder, manifest, KvElementType.Float32, sequences * _blocks, Environment.ProcessorCount, model => [new GpuDevice(gpu, 0, model, KernelRegistry.Choose(), Environment.ProcessorCount, graphs, overlaps, _ => cancellationToken.ThrowIfCancellationRequested())]);
        for (var block = 0; block < sequences * _blocks; block++) _runner.Cache.Allocate();
    }

    /// <summary>Whether decode steps are captured still.</summary>
    public bool UsesGraphs => _runner.UsesGraphs;

    /// <summary>Prefills as many prompts as there shall be sequences, and decodes; returns the tokens [steps + 1, sequences] and the logits [steps + 1, sequences, vocabulary].</summary>
    public (List<int> Tokens, List<float> Logits) Run(int sequences, int steps)
    {
        var (tokens, logits) = (new List<int>(), new List<float>());
        int[][] prompts = [.. Enumerable.Range(0, sequences).Select(static s => LoadedModels.Ids(s, 2 + s % 3))];
        int[][] tables = [.. Enumerable.Range(0, sequences).Select(s => Enumerable.Range(s * _blocks, _blocks).ToArray())];
        var batch = new StepBatch();
        for (var s = 0; s < sequences; s++) batch.Add(prompts[s], 0, tables[s], SequenceFlags.None, SparseLimits.Dense, 1);
        for (var step = 0; step <= steps; step++)
        {
            var all = _runner.Run(batch);
            logits.AddRange(all);
            for (var s = 0; s < sequences; s++) tokens.Add(Sampler.ArgMax(all.Slice(s * _vocabSize, _vocabSize)));
            batch.Clear();
            for (var s = 0; s < sequences; s++) batch.Add([tokens[^(sequences - s)]], prompts[s].Length + step, tables[s], SequenceFlags.Decode, SparseLimits.Dense, 1);
        }
        return (tokens, logits);
    }

    public void Dispose() => _runner.Dispose();
}
