using System.Diagnostics;
using System.Numerics.Tensors;
using LLama;
using LLama.Common;
using LLama.Native;

namespace Ernie.Sdk.Peers;

/// <summary>llama.cpp, in this process by LLamaSharp, with its CPU back end. Batches go to it directly: no text, no sampler chain, no template.</summary>
internal sealed class LlamaEngine : Engine
{
    /// <summary>Both of llama.cpp's limits for the tokens of one graph; 512 is its best for prompts.</summary>
    private const int BatchTokens = 512;
    private readonly LLamaWeights _weights;
    private readonly LLamaContext _context;
    private readonly LLamaBatch _batch = new();
    private readonly Random _random = new(7);
    private readonly bool _flash;
    private readonly GgufSizes _sizes;

    private LlamaEngine(LLamaWeights weights, LLamaContext context, bool flash, GgufSizes sizes) => (_weights, _context, _flash, _sizes) = (weights, context, flash, sizes);

    /// <param name="file">GGUF.</param>
    /// <param name="sizes">What its steps read.</param>
    /// <param name="threads">For prompts and for decode.</param>
    /// <param name="contextTokens">Positions of the cache, which is allocated whole.</param>
    /// <param name="flash">Flash attention: off is faster in decode.</param>
    public static Engine Load(string file, GgufSizes sizes, int threads, int contextTokens, bool flash)
    {
        var parameters = new ModelParams(file)
        {
            GpuLayerCount = 0,
            LoadMode = LLamaLoadMode.MemoryMap,
            Threads = threads,
            BatchThreads = threads,
            ContextSize = (uint)contextTokens,
            BatchSize = BatchTokens,
            UBatchSize = BatchTokens,
            FlashAttention = flash,
        };
        var weights = LLamaWeights.LoadFromFile(parameters);
        return new LlamaEngine(weights, weights.CreateContext(parameters), flash, sizes);
    }

    public override string Name => _flash ? "llama.cpp, flash attention" : "llama.cpp";
    public override int VocabularySize => _weights.Vocab.Count;

    public override Task<double> PrefillAsync(IReadOnlyList<int> prompt) => Task.Run(() =>
    {
        var start = Stopwatch.GetTimestamp();
        Prefill(prompt);
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    });

    public override Task<(double Seconds, double BytesOfStep)> DecodeAsync(IReadOnlyList<int> prompt, int tokens) => Task.Run(() =>
    {
        Prefill(prompt);
        var start = Stopwatch.GetTimestamp();
        for (var i = 0; i < tokens; i++)
        {
            // The most likely token is looked for, as every engine must, but another one is fed: experts rotate as they do for random prompts.
            _batch.Clear();
            _batch.Add(_random.Next(VocabularySize), prompt.Count + i, (LLamaSeqId)0, true);
            Decode();
            Choose(0);
        }
        var seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        var positions = prompt.Count + (tokens + 1) / 2.0;
        return (seconds, _sizes.BytesOfToken + positions * _sizes.CacheBytesOfPosition);
    });

    public override ValueTask DisposeAsync()
    {
        _context.Dispose();
        _weights.Dispose();
        return ValueTask.CompletedTask;
    }

    private int Prefill(IReadOnlyList<int> prompt)
    {
        _context.NativeHandle.MemoryClear(false);
        for (var first = 0; first < prompt.Count; first += BatchTokens)
        {
            _batch.Clear();
            for (var i = first; i < Math.Min(prompt.Count, first + BatchTokens); i++) _batch.Add(prompt[i], i, (LLamaSeqId)0, i == prompt.Count - 1);
            Decode();
        }
        return Choose(_batch.TokenCount - 1);
    }

    private void Decode()
    {
        if (_context.NativeHandle.Decode(_batch) is not DecodeResult.Ok and var result) throw new InvalidOperationException($"llama_decode: {result}.");
        _context.NativeHandle.Synchronize();
    }

    private int Choose(int row) => TensorPrimitives.IndexOfMax<float>(_context.NativeHandle.GetLogitsIth(row));
}
