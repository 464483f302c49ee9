using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Native;
using Ernie.Sdk.Operators;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Export;

/// <summary>
/// ERNIE 4.5, top to bottom. One graph serves prefill and decode: the tokens of all sequences of a step lie flattened in [tokens, hidden], small integer inputs say which is which.
/// </summary>
/// <remarks>
/// <code>
/// x = embed[token]
/// layer:  x = x + o(attention(rotate(qkv(RMS(x)))))       x = x + mlp(RMS(x))   or   x = x + experts(RMS(x)) + shared(RMS(x))
/// logits = head(RMS(x)[logit_rows])
/// </code>
/// What a block adds to x is added by the norm that follows: one node, one pass over memory.
/// </remarks>
internal sealed class ErnieGraph
{
    public const string InputIds = "input_ids";
    /// <summary>Of a part of the model: the residual stream that it begins with, and the one that it ends with, [tokens, hidden].</summary>
    public const string Hidden = "hidden", NextHidden = "next_hidden";
    public const string Positions = "positions";
    public const string SequenceStarts = "sequence_starts";
    public const string SequenceFlags = "sequence_flags";
    public const string BlockTables = "block_tables";
    public const string SparseLimits = "sparse_limits";
    public const string LogitRows = "logit_rows";
    public const string Logits = "logits";

    private const string Ernie = OperatorSchema.Domain;
    private const string Onnx = "";
    private readonly ErnieConfig _config;
    private readonly ModelFormats _formats;
    private readonly bool _debugOutputs;
    private readonly LayerRange _layers;
    private readonly GraphBuilder _graph = new("ernie-4.5");

    private ErnieGraph(ErnieConfig config, ModelFormats formats, bool debugOutputs, LayerRange layers) => (_config, _formats, _debugOutputs, _layers) = (config, formats, debugOutputs, layers);

    public static string KvCache(int layer) => $"kv_cache.{layer}";

    /// <summary>Name of the node that runs a layer's routed experts.</summary>
    public static string ExpertsNode(int layer) => $"{TensorNames.Layer(layer)}.mlp.experts";

    /// <summary>Debug outputs, in a debug export only: the residual stream after the embedding and each layer, and the final norm of the logit rows.</summary>
    public static string HiddenState(int layer) => $"debug.hidden.{layer}";
    public const string EmbeddingState = "debug.hidden.embedding";
    public const string FinalState = "debug.hidden.final";
    public static string RouterSelected(int layer) => $"debug.router.{layer}.selected";
    public static string RouterWeights(int layer) => $"debug.router.{layer}.weights";

    public static string QueryKeyValue(int layer) => $"{TensorNames.Layer(layer)}.self_attn.qkv_proj.weight";
    public static string AttentionOutput(int layer) => $"{TensorNames.Layer(layer)}.self_attn.o_proj.weight";
    public static string DenseGateUp(int layer) => $"{TensorNames.Layer(layer)}.mlp.gate_up_proj.weight";
    public static string DenseDown(int layer) => $"{TensorNames.Layer(layer)}.mlp.down_proj.weight";
    public static string SharedGateUp(int layer) => $"{TensorNames.Layer(layer)}.mlp.shared_experts.gate_up_proj.weight";
    public static string SharedDown(int layer) => $"{TensorNames.Layer(layer)}.mlp.shared_experts.down_proj.weight";
    public static string ExpertGateUp(int layer) => $"{TensorNames.Layer(layer)}.mlp.experts.gate_up_proj.weight";
    public static string ExpertDown(int layer) => $"{TensorNames.Layer(layer)}.mlp.experts.down_proj.weight";
    /// <summary>Whether a weight of the graph holds routed experts.</summary>
    public static bool IsExperts(string weight) => weight.Contains(".mlp.experts.", StringComparison.Ordinal);

    /// <param name="config">The architecture.</param>
    /// <param name="formats">Formats of the matrices.</param>
    /// <param name="debugOutputs">Adds hidden states and router choices to the outputs.</param>
    /// <param name="layers">A part of the model: the first layer has the embedding before it, the last one the head behind it; otherwise <see cref="Hidden"/> comes in, or <see cref="NextHidden"/> goes out. Null: all of it.</param>
    public static GraphBuilder Build(ErnieConfig config, ModelFormats formats, bool debugOutputs = false, LayerRange? layers = null)
    {
        var graph = new ErnieGraph(config, formats, debugOutputs, layers ?? new LayerRange(0, config.LayerCount - 1));
        graph.Model();
        return graph._graph;
    }

    private void Model()
    {
        _graph.Opset(Onnx, 23).Opset(Ernie, OperatorSchema.Version);
        var (isFirst, isLast) = (_layers.First == 0, _layers.Last == _config.LayerCount - 1);
        if (isFirst) _graph.Input(InputIds, TensorElementKind.Int32, "tokens");
        else _graph.Input(Hidden, TensorElementKind.Float, "tokens", _config.HiddenSize);
        _graph.Input(Positions, TensorElementKind.Int32, "tokens");
        _graph.Input(SequenceStarts, TensorElementKind.Int32, "sequences_plus_1");
        _graph.Input(SequenceFlags, TensorElementKind.Int32, "sequences");
        _graph.Input(BlockTables, TensorElementKind.Int32, "sequences", "blocks");
        _graph.Input(SparseLimits, TensorElementKind.Int32, "sequences", Kernels.SparseLimits.Count);
        if (isLast) _graph.Input(LogitRows, TensorElementKind.Int32, "rows");
        for (var layer = _layers.First; layer <= _layers.Last; layer++) _graph.Input(KvCache(layer), TensorElementKind.UInt8, "pool_blocks", "block_bytes");

        var x = new Residual(isFirst ? Embedding() : Hidden);
        for (var layer = _layers.First; layer <= _layers.Last; layer++)
        {
            x = Attention(layer, x);
            x = _config.IsMoeLayer(layer) ? Experts(layer, x) : DenseMlp(layer, x);
            x = x with { State = HiddenState(layer) };
        }
        if (isLast)
        {
            Head(x);
            return;
        }
        // No norm follows here that would add what the last layer computed.
        var added = x.Second is null ? x.First! : _graph.Node("Add", Onnx, $"{NextHidden}.sum", [x.First!, x.Second]);
        _graph.Node("Add", Onnx, $"{NextHidden}.residual", [x.Sum, added], [NextHidden], []);
        DebugOutput(x.State!, NextHidden, "tokens", _config.HiddenSize);
        _graph.Output(NextHidden, TensorElementKind.Float, "tokens", _config.HiddenSize);
    }

    private string Embedding()
    {
        // [tokens] → [tokens, hidden]
        var table = Matrix(TensorNames.Embedding, _formats.Embedding, [_config.VocabSize, _config.HiddenSize], TensorNames.Embedding);
        var x = _graph.Node("Gather", Onnx, "model.embed_tokens", [table, InputIds], ("axis", 0));
        if (_formats.Embedding != WeightFormat.Float32) x = _graph.Node("Cast", Onnx, "model.embed_tokens.widen", [x], ("to", (int)TensorElementKind.Float));
        DebugOutput(EmbeddingState, x, "tokens", _config.HiddenSize);
        return x;
    }

    private Residual Attention(int layer, Residual x)
    {
        var path = TensorNames.Layer(layer);
        var h = Norm($"{path}.input_layernorm", ref x, TensorNames.InputNorm(layer));
        var qkv = Linear($"{path}.self_attn.qkv_proj", h, _config.QkvSize, _config.HiddenSize,
            TensorNames.Query(layer), TensorNames.Key(layer), TensorNames.Value(layer));
        string[] inputs = [qkv, Positions, SequenceStarts, SequenceFlags, BlockTables, SparseLimits, KvCache(layer)];
        if (_config.IsGatedLayer(layer))
        {
            var gate = TensorNames.AttentionGate(layer);
            inputs = [.. inputs, Matrix(gate, WeightFormat.Float32, [_config.KvHeadCount, Kernels.KvBlockLayout.BlockSize, _config.HeadDim], gate)];
        }
        (string, object)[] attributes =
        [
            (OperatorSchema.SparseAttention.HeadCount, _config.HeadCount),
            (OperatorSchema.SparseAttention.KvHeadCount, _config.KvHeadCount),
            (OperatorSchema.SparseAttention.HeadDim, _config.HeadDim),
            (OperatorSchema.SparseAttention.KvHeadBegin, 0),
            (OperatorSchema.SparseAttention.KvHeadEnd, _config.KvHeadCount),
        ];
        if (_config.HasAttentionGates && !_config.IsGatedLayer(layer)) attributes = [.. attributes, (OperatorSchema.SparseAttention.DensePrefill, 1)];
        var y = _graph.Node(OperatorSchema.SparseAttention.Name, Ernie, $"{path}.self_attn", inputs, attributes);
        return x with { First = Linear($"{path}.self_attn.o_proj", y, _config.HiddenSize, _config.HeadCount * _config.HeadDim, TensorNames.AttentionOutput(layer)) };
    }

    private Residual DenseMlp(int layer, Residual x)
    {
        var path = TensorNames.Layer(layer);
        var h = Norm($"{path}.post_attention_layernorm", ref x, TensorNames.PostAttentionNorm(layer));
        return x with { First = SwiGlu($"{path}.mlp", h, _config.IntermediateSize, TensorNames.Gate(layer), TensorNames.Up(layer), TensorNames.Down(layer)) };
    }

    private Residual Experts(int layer, Residual x)
    {
        var path = TensorNames.Layer(layer);
        var h = Norm($"{path}.post_attention_layernorm", ref x, TensorNames.PostAttentionNorm(layer));
        var (experts, hidden, width) = (_config.ExpertCount, _config.HiddenSize, _config.ExpertIntermediateSize);
        var all = Enumerable.Range(0, experts);
        var gateUp = Weight(new ExportedWeight(ExpertGateUp(layer), _formats.OfExperts(ExpertGateUp(layer)), [experts, 2L * width, hidden],
            [.. all.SelectMany(e => new[] { TensorNames.ExpertGate(layer, e), TensorNames.ExpertUp(layer, e) })]) { SectionRows = width });
        var down = Weight(new ExportedWeight(ExpertDown(layer), _formats.OfExperts(ExpertDown(layer)), [experts, hidden, width],
            [.. all.Select(e => TensorNames.ExpertDown(layer, e))]) { SectionRows = hidden });
        var router = Matrix(TensorNames.Router(layer), WeightFormat.Float32, [experts, hidden], TensorNames.Router(layer));
        var bias = Matrix(TensorNames.CorrectionBias(layer), WeightFormat.Float32, [experts], TensorNames.CorrectionBias(layer));

        var y = $"{path}.mlp.experts.output";
        string[] outputs = _debugOutputs ? [y, RouterSelected(layer), RouterWeights(layer)] : [y];
        _graph.Node(OperatorSchema.MoeExperts.Name, Ernie, ExpertsNode(layer), [h, router, bias, gateUp.Name, down.Name], outputs,
        [
            (OperatorSchema.MoeExperts.ExpertCount, experts),
            (OperatorSchema.MoeExperts.ExpertsPerToken, _config.ExpertsPerToken),
            (OperatorSchema.MoeExperts.IntermediateSize, width),
            (OperatorSchema.MoeExperts.NormMin, _config.RouterNormMin),
            (OperatorSchema.MoeExperts.ExpertBegin, 0),
            (OperatorSchema.MoeExperts.ExpertEnd, experts),
            .. Packing(gateUp.Format, OperatorSchema.Packed.GateUpBits, OperatorSchema.Packed.GateUpBlockSize),
            .. Packing(down.Format, OperatorSchema.Packed.DownBits, OperatorSchema.Packed.DownBlockSize),
        ]);
        if (_debugOutputs)
        {
            _graph.Output(RouterSelected(layer), TensorElementKind.Int32, "tokens", _config.ExpertsPerToken);
            _graph.Output(RouterWeights(layer), TensorElementKind.Float, "tokens", _config.ExpertsPerToken);
        }

        x = x with { First = y };
        return _config.SharedExpertCount == 0 ? x
            : x with { Second = SwiGlu($"{path}.mlp.shared_experts", h, _config.SharedIntermediateSize, TensorNames.SharedGate(layer), TensorNames.SharedUp(layer), TensorNames.SharedDown(layer)) };
    }

    private void Head(Residual x)
    {
        // [tokens, hidden] → [rows, hidden]: only rows that someone samples from reach the vocabulary.
        var h = _graph.Node("Gather", Onnx, "logit_rows.gather", [Norm("model.norm", ref x, TensorNames.FinalNorm, isLast: true), LogitRows], ("axis", 0));
        DebugOutput(FinalState, h, "rows", _config.HiddenSize);
        var name = _formats.SharesEmbedding(_config) ? TensorNames.Embedding : TensorNames.Head;
        var weight = Weight(new ExportedWeight(name, _formats.Head, [_config.VocabSize, _config.HiddenSize], [name]));
        _graph.Node(OperatorSchema.Linear.Name, Ernie, "lm_head", [h, weight.Name], [Logits], LinearAttributes(weight, swiGlu: 0));
        _graph.Output(Logits, TensorElementKind.Float, "rows", _config.VocabSize);
    }

    /// <summary>The residual stream takes up what was computed for it; its norm is the result.</summary>
    private string Norm(string name, ref Residual x, string weight, bool isLast = false)
    {
        var isDebugged = _debugOutputs && x.State is not null;
        List<string> inputs = [x.Sum, Matrix(weight, WeightFormat.Float32, [_config.HiddenSize], weight)];
        List<string> outputs = [$"{name}.output"];
        if (x.First is not null)
        {
            inputs.Add(x.First);
            if (x.Second is not null) inputs.Add(x.Second);
            if (!isLast || isDebugged) outputs.Add($"{name}.residual");
        }
        _graph.Node(OperatorSchema.AddRmsNorm.Name, Ernie, name, inputs.ToArray(), outputs.ToArray(), [(OperatorSchema.AddRmsNorm.Epsilon, _config.RmsNormEps)]);
        if (isDebugged) DebugOutput(x.State!, outputs[1], "tokens", _config.HiddenSize);
        if (outputs.Count > 1) x = new Residual(outputs[1]);
        return outputs[0];
    }

    private string Linear(string name, string x, long rows, long columns, params string[] sources)
    {
        var weight = Weight(new ExportedWeight($"{name}.weight", _formats.OfDense($"{name}.weight"), [rows, columns], sources));
        return _graph.Node(OperatorSchema.Linear.Name, Ernie, name, [x, weight.Name], LinearAttributes(weight, swiGlu: 0));
    }

    private string SwiGlu(string path, string x, int width, string gate, string up, string down)
    {
        var name = $"{path}.gate_up_proj";
        var weight = Weight(new ExportedWeight($"{name}.weight", _formats.OfDense($"{name}.weight"), [2L * width, _config.HiddenSize], [gate, up]) { SectionRows = width });
        var h = _graph.Node(OperatorSchema.Linear.Name, Ernie, name, [x, weight.Name], LinearAttributes(weight, swiGlu: 1));
        return Linear($"{path}.down_proj", h, _config.HiddenSize, width, down);
    }

    private static (string, object)[] LinearAttributes(ExportedWeight weight, int swiGlu) => weight.Format.IsPacked
        ? [(OperatorSchema.Linear.SwiGlu, swiGlu), .. Packing(weight.Format, OperatorSchema.Packed.Bits, OperatorSchema.Packed.BlockSize), (OperatorSchema.Packed.Rows, weight.Rows), (OperatorSchema.Packed.Columns, weight.Columns)]
        : [(OperatorSchema.Linear.SwiGlu, swiGlu)];

    private static (string, object)[] Packing(WeightFormat format, string bits, string blockSize) =>
        format.IsPacked ? [(bits, OperatorSchema.Packed.BitsOf(format)), (blockSize, format.Group)] : [];

    private ExportedWeight Weight(ExportedWeight weight)
    {
        _graph.Weight(weight);
        return weight;
    }

    private string Matrix(string name, WeightFormat format, IReadOnlyList<long> shape, params string[] sources) =>
        _graph.Weight(new ExportedWeight(name, format, shape, sources));

    /// <summary>The residual stream: a sum, and what the last block has computed and the next norm adds to it.</summary>
    /// <param name="Sum">[tokens, hidden].</param>
    /// <param name="First">[tokens, hidden], or null.</param>
    /// <param name="Second">[tokens, hidden], or null: the shared experts'.</param>
    /// <param name="State">The debug output that the whole is, or null.</param>
    private readonly record struct Residual(string Sum, string? First = null, string? Second = null, string? State = null);

    private void DebugOutput(string name, string value, string rows, long columns)
    {
        if (!_debugOutputs) return;
        _graph.Node("Identity", Onnx, $"{name}.identity", [value], [name], []);
        _graph.Output(name, TensorElementKind.Float, rows, columns);
    }
}
