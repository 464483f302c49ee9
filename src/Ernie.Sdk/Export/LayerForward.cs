using System.Numerics.Tensors;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Export;

/// <summary>A matrix whose rows are those of the named tensors, one after another; valid until the next call.</summary>
internal delegate PackedMatrix LayerWeights(params ReadOnlySpan<string> names);

/// <summary>
/// The model, one layer at a time, over all tokens of a calibration: only one matrix is in memory at any time, of a mixture of experts one expert's. Same mathematics and kernels as the exported graph
/// (<see cref="ErnieGraph"/>).
/// </summary>
internal sealed unsafe class LayerForward : IDisposable
{
    private readonly ErnieConfig _config;
    private readonly CpuKernels _kernels;
    private readonly KernelContext _context;
    private readonly ScratchBuffer _scratch = new();
    private readonly ScratchBuffer _cache = new();
    private readonly RopeTable _rope;

    public LayerForward(ErnieConfig config, CpuKernels kernels, IParallelRunner parallel)
    {
        _config = config;
        _kernels = kernels;
        _context = new KernelContext(parallel, _scratch);
        _rope = new RopeTable(config.HeadDim, config.RopeTheta, config.CompressionRatio, config.ContextLength);
    }

    /// <summary>Residual stream [tokens, hidden] before the first layer.</summary>
    public TokenMatrix Embed(CheckpointTensor table, ReadOnlySpan<int> ids)
    {
        var x = new TokenMatrix(ids.Length, _config.HiddenSize);
        for (var t = 0; t < ids.Length; t++) table.Read(ids[t], x.Row(t));
        return x;
    }

    /// <summary>Takes the residual stream through one layer, in place.</summary>
    /// <param name="layer">Index.</param>
    /// <param name="x">[tokens, hidden], the tokens of all sequences.</param>
    /// <param name="lengths">Tokens of each sequence.</param>
    /// <param name="weights">Where the layer's matrices come from.</param>
    /// <param name="inputs">Told what each matrix is multiplied with, by the name of its first tensor; the matrices, of which one may come under several names, then belong to it, and must not be changed.</param>
    public void Run(int layer, TokenMatrix x, IReadOnlyList<int> lengths, LayerWeights weights, Action<string, TokenMatrix>? inputs = null)
    {
        var h = Norm(x, weights(TensorNames.InputNorm(layer)));
        inputs?.Invoke(TensorNames.Query(layer), h);
        var qkv = Linear(h, weights(TensorNames.Query(layer), TensorNames.Key(layer), TensorNames.Value(layer)));
        if (inputs is null) h.Dispose();
        var y = Attention(qkv, lengths);
        qkv.Dispose();
        inputs?.Invoke(TensorNames.AttentionOutput(layer), y);
        Add(x, Linear(y, weights(TensorNames.AttentionOutput(layer))));
        if (inputs is null) y.Dispose();

        h = Norm(x, weights(TensorNames.PostAttentionNorm(layer)));
        if (_config.IsMoeLayer(layer))
        {
            Experts(layer, x, h, weights, inputs);
            if (_config.SharedExpertCount > 0) SwiGlu(x, h, TensorNames.SharedGate(layer), TensorNames.SharedUp(layer), TensorNames.SharedDown(layer), weights, inputs);
        }
        else SwiGlu(x, h, TensorNames.Gate(layer), TensorNames.Up(layer), TensorNames.Down(layer), weights, inputs);
        if (inputs is null) h.Dispose();
    }

    /// <summary>Final norm of some tokens: what the head is multiplied with.</summary>
    public TokenMatrix Norm(TokenMatrix x, PackedMatrix weight)
    {
        var h = new TokenMatrix(x.Tokens, x.Columns);
        var scale = new ReadOnlySpan<float>(weight.Data, x.Columns);
        for (var t = 0; t < x.Tokens; t++)
        {
            double squares = 0;
            foreach (var value in x.Row(t)) squares += (double)value * value;
            TensorPrimitives.Multiply(x.Row(t), (float)(1 / Math.Sqrt(squares / x.Columns + _config.RmsNormEps)), h.Row(t));
            TensorPrimitives.Multiply(h.Row(t), scale, h.Row(t));
        }
        return h;
    }

    /// <summary>x · Wᵀ.</summary>
    public TokenMatrix Linear(TokenMatrix x, PackedMatrix weight, bool swiGlu = false)
    {
        var y = new TokenMatrix(x.Tokens, (int)(swiGlu ? weight.Rows / 2 : weight.Rows));
        _kernels.Linear(new LinearArguments { Input = x.Data, TokenCount = x.Tokens, Weight = weight, SwiGlu = swiGlu, Output = y.Data }, _context);
        GC.KeepAlive(x);
        return y;
    }

    public void Dispose()
    {
        _scratch.Dispose();
        _cache.Dispose();
    }

    private void SwiGlu(TokenMatrix x, TokenMatrix h, string gate, string up, string down, LayerWeights weights, Action<string, TokenMatrix>? inputs)
    {
        inputs?.Invoke(gate, h);
        var a = Linear(h, weights(gate, up), swiGlu: true);
        inputs?.Invoke(down, a);
        Add(x, Linear(a, weights(down)));
        if (inputs is null) a.Dispose();
    }

    /// <summary>Sequences one after another: the cache holds one.</summary>
    private TokenMatrix Attention(TokenMatrix qkv, IReadOnlyList<int> lengths)
    {
        var width = _config.HeadCount * _config.HeadDim;
        var y = new TokenMatrix(qkv.Tokens, width);
        var layout = new KvBlockLayout(KvElementType.Float32, _config.KvHeadCount, _config.HeadDim);
        var first = 0;
        foreach (var length in lengths)
        {
            var blocks = (length + KvBlockLayout.BlockSize - 1) / KvBlockLayout.BlockSize;
            var pool = _cache.Rent(blocks * layout.BlockBytes);
            new Span<byte>(pool, checked((int)(blocks * layout.BlockBytes))).Clear();
            int[] positions = [.. Enumerable.Range(0, length)], tables = [.. Enumerable.Range(0, blocks)], starts = [0, length], flags = [0];
            fixed (int* position = positions, table = tables, start = starts, flag = flags)
            {
                _kernels.Attention(new AttentionArguments
                {
                    Qkv = qkv.Data + (nint)first * qkv.Columns, TokenCount = length, Positions = position, SequenceStarts = start, SequenceCount = 1, Flags = flag,
                    BlockTables = table, BlockTableStride = blocks, Pool = pool, PoolBlockCount = blocks, Layout = layout, Rope = _rope,
                    HeadCount = _config.HeadCount, KvHeadCount = _config.KvHeadCount, HeadDim = _config.HeadDim, KvHeadBegin = 0, KvHeadEnd = _config.KvHeadCount,
                    Output = y.Data + (nint)first * width,
                }, _context);
            }
            first += length;
        }
        GC.KeepAlive(qkv);
        return y;
    }

    private void Experts(int layer, TokenMatrix x, TokenMatrix h, LayerWeights weights, Action<string, TokenMatrix>? inputs)
    {
        var perToken = _config.ExpertsPerToken;
        inputs?.Invoke(TensorNames.Router(layer), h);
        using var logits = Linear(h, weights(TensorNames.Router(layer)));
        var bias = new ReadOnlySpan<float>(weights(TensorNames.CorrectionBias(layer)).Data, _config.ExpertCount);
        var chosen = new int[x.Tokens * perToken];
        var shares = new float[x.Tokens * perToken];
        fixed (float* addend = bias)
        {
            for (var t = 0; t < x.Tokens; t++)
                VectorRouter<Lanes128>.Route(logits.Data + (nint)t * _config.ExpertCount, _config.ExpertCount, addend, _config.RouterNormMin, chosen.AsSpan(t * perToken, perToken), shares.AsSpan(t * perToken, perToken));
        }
        // Experts without a token are asked for all the same: whoever gives the weights may have more to do with them.
        var tokens = new List<int>();
        var share = new List<float>();
        for (var e = 0; e < _config.ExpertCount; e++)
        {
            tokens.Clear();
            share.Clear();
            for (var i = 0; i < chosen.Length; i++)
            {
                if (chosen[i] != e) continue;
                tokens.Add(i / perToken);
                share.Add(shares[i]);
            }
            using var rows = h.Gather(System.Runtime.InteropServices.CollectionsMarshal.AsSpan(tokens));
            var a = Linear(rows, weights(TensorNames.ExpertGate(layer, e), TensorNames.ExpertUp(layer, e)), swiGlu: true);
            inputs?.Invoke(TensorNames.ExpertDown(layer, e), a);
            using var y = Linear(a, weights(TensorNames.ExpertDown(layer, e)));
            if (inputs is null) a.Dispose();
            for (var i = 0; i < tokens.Count; i++) TensorPrimitives.MultiplyAdd(y.Row(i), share[i], x.Row(tokens[i]), x.Row(tokens[i]));
        }
    }

    /// <summary>x += y, which is not needed any more.</summary>
    private static void Add(TokenMatrix x, TokenMatrix y)
    {
        TensorPrimitives.Add(x.Values, y.Values, x.Values);
        y.Dispose();
    }
}
