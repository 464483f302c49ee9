using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Checkpoints;

/// <summary>
/// Finds every weight that the architecture needs among the stored tensors, whatever their spelling, and checks its shape and element type. All problems of one kind are reported together.
/// </summary>
/// <remarks>
/// A matrix whose stored shape fits only one orientation has that orientation. Square ones (the 300B model's <c>o_proj</c>) follow the others, which must agree then; where nothing is
/// unambiguous, prefix <c>ernie.</c> means [inputs, outputs].
/// </remarks>
internal sealed class TensorBinder
{
    private const string Cure = "Take config.json and all weight files from the same repository and download what is missing again.";
    private const int MaxProblems = 1000;
    private readonly StoredTensors _stored;
    private readonly ErnieConfig _config;
    private readonly Dictionary<string, CheckpointTensor> _bound = new(StringComparer.Ordinal);
    private readonly List<Action<bool>> _squares = [];
    private readonly ProblemList _missing, _wrongShapes, _wrongTypes, _contradictions;
    private readonly QuantisedBinder? _quantised;
    private StoredTensor? _rowMajor, _transposed;
    private bool _hasStacks, _hasUInt16;

    /// <param name="stored">All tensors.</param>
    /// <param name="config">The architecture.</param>
    /// <param name="folder">Where they lie, for messages.</param>
    /// <param name="quantization">How projections are quantised; null if they are not.</param>
    public TensorBinder(StoredTensors stored, ErnieConfig config, string folder, Wint2Config? quantization)
    {
        _stored = stored;
        _config = config;
        _missing = new ProblemList($"{folder}: tensors are missing", Cure);
        _wrongShapes = new ProblemList($"{folder}: tensors have another shape than config.json says", Cure);
        _wrongTypes = new ProblemList($"{folder}: tensors have an element type that is not read", UnsupportedFeatures.FormatsRead);
        _contradictions = new ProblemList($"{folder}: tensors are not stored as quantization_config says", Cure);
        if (quantization is not null) _quantised = new QuantisedBinder(stored, quantization, _missing, _wrongShapes, _wrongTypes, _contradictions);
    }

    public CheckpointLayout Layout { get; private set; }
    /// <summary>Stored quantised matrices by format; empty if the checkpoint is not quantised.</summary>
    public IReadOnlyDictionary<FastDeployFormat, int> QuantisedMatrices => _quantised?.Counts ?? new Dictionary<FastDeployFormat, int>();

    public IReadOnlyDictionary<string, CheckpointTensor> Bind(ICollection<string> notes)
    {
        BindEnds();
        for (var layer = 0; layer < _config.LayerCount && _missing.Count < MaxProblems; layer++) BindLayer(layer, notes);
        _missing.ThrowIfAny();
        _wrongShapes.ThrowIfAny();
        _wrongTypes.ThrowIfAny();
        _contradictions.ThrowIfAny();
        BindSquares(notes);
        if (_config.TieWordEmbeddings) _bound[TensorNames.Head] = _bound[TensorNames.Embedding];
        UnknownTensors.Judge(_stored, notes);
        if (_quantised is not null) notes.Add("WINT8 and WINT4 are read in the byte order of FastDeploy's GPU kernels, which was derived from published sources and has not been compared with a published file.");
        if (_hasUInt16) notes.Add("Tensors declared as uint16 are read as bfloat16, as Paddle means them.");
        if (_stored.HasUnprefixedLayers) notes.Add("Tensor names have no prefix 'model.'.");
        return _bound;
    }

    private void BindEnds()
    {
        var (vocabulary, hidden) = (_config.VocabSize, _config.HiddenSize);
        if (_stored.Has("embed_tokens.weight")) Matrix(TensorNames.Embedding, vocabulary, hidden, fixedOrientation: true, new TensorPart("embed_tokens.weight", vocabulary));
        else if (_config.TieWordEmbeddings) Linear(TensorNames.Embedding, vocabulary, hidden, new TensorPart("lm_head.weight", vocabulary));
        else _missing.Add(TensorNames.Embedding);
        if (!_config.TieWordEmbeddings) Linear(TensorNames.Head, vocabulary, hidden, new TensorPart("lm_head.weight", vocabulary));
        Vector(TensorNames.FinalNorm, hidden, "norm.weight");
    }

    private void BindLayer(int layer, ICollection<string> notes)
    {
        var stem = $"layers.{layer}";
        var hidden = _config.HiddenSize;
        Vector(TensorNames.InputNorm(layer), hidden, $"{stem}.input_layernorm.weight");
        Vector(TensorNames.PostAttentionNorm(layer), hidden, $"{stem}.post_attention_layernorm.weight");
        var (queries, keys) = (_config.HeadCount * _config.HeadDim, _config.KvHeadCount * _config.HeadDim);
        var qkv = new TensorPart($"{stem}.self_attn.qkv_proj.weight", _config.QkvSize);
        Projection(TensorNames.Query(layer), FastDeployFormat.Wint8, queries, hidden, new TensorPart($"{stem}.self_attn.q_proj.weight", queries), qkv);
        Projection(TensorNames.Key(layer), FastDeployFormat.Wint8, keys, hidden, new TensorPart($"{stem}.self_attn.k_proj.weight", keys), qkv with { FirstRow = queries });
        Projection(TensorNames.Value(layer), FastDeployFormat.Wint8, keys, hidden, new TensorPart($"{stem}.self_attn.v_proj.weight", keys), qkv with { FirstRow = queries + keys });
        Projection(TensorNames.AttentionOutput(layer), FastDeployFormat.Wint8, hidden, queries, new TensorPart($"{stem}.self_attn.o_proj.weight", hidden));
        if (_config.IsMoeLayer(layer)) BindExperts(layer, $"{stem}.mlp", notes);
        else BindMlp(TensorNames.Gate(layer), TensorNames.Up(layer), TensorNames.Down(layer), $"{stem}.mlp", _config.IntermediateSize, FastDeployFormat.Wint8);
    }

    private void BindMlp(string gate, string up, string down, string stem, int width, FastDeployFormat? format)
    {
        // Both spellings of the fused matrix hold the gate first.
        TensorPart[] fused = [new($"{stem}.up_gate_proj.weight", checked(2 * width)), new($"{stem}.gate_up_proj.weight", checked(2 * width))];
        Projection(gate, format, width, _config.HiddenSize, new TensorPart($"{stem}.gate_proj.weight", width), fused[0], fused[1]);
        Projection(up, format, width, _config.HiddenSize, new TensorPart($"{stem}.up_proj.weight", width), fused[0] with { FirstRow = width }, fused[1] with { FirstRow = width });
        Projection(down, format, _config.HiddenSize, width, new TensorPart($"{stem}.down_proj.weight", _config.HiddenSize));
    }

    private void BindExperts(int layer, string stem, ICollection<string> notes)
    {
        Linear(TensorNames.Router(layer), _config.ExpertCount, _config.HiddenSize, new TensorPart($"{stem}.gate.weight", _config.ExpertCount));
        BindCorrectionBias(layer, stem, notes);
        if (_config.SharedExpertCount > 0)
        {
            BindMlp(TensorNames.SharedGate(layer), TensorNames.SharedUp(layer), TensorNames.SharedDown(layer), $"{stem}.shared_experts", _config.SharedIntermediateSize, FastDeployFormat.Wint8);
        }
        // Stacks are never quantised.
        var stacked = _quantised is null && _stored.Has($"{stem}.experts.gate_up_proj");
        for (var expert = 0; expert < _config.ExpertCount && _missing.Count < MaxProblems; expert++)
        {
            var (gate, up, down) = (TensorNames.ExpertGate(layer, expert), TensorNames.ExpertUp(layer, expert), TensorNames.ExpertDown(layer, expert));
            if (stacked) BindStackedExpert(gate, up, down, $"{stem}.experts", expert);
            else BindMlp(gate, up, down, $"{stem}.experts.{expert}", _config.ExpertIntermediateSize, _quantised?.FormatOfExperts(layer));
        }
    }

    private void BindStackedExpert(string gate, string up, string down, string stem, int expert)
    {
        var (width, hidden) = (_config.ExpertIntermediateSize, _config.HiddenSize);
        var part = new TensorPart($"{stem}.gate_up_proj", checked(2 * width), 0, _config.ExpertCount, expert);
        Linear(gate, width, hidden, part);
        Linear(up, width, hidden, part with { FirstRow = width });
        Linear(down, hidden, width, new TensorPart($"{stem}.down_proj", hidden, 0, _config.ExpertCount, expert));
        _hasStacks = true;
    }

    private void BindCorrectionBias(int layer, string stem, ICollection<string> notes)
    {
        var name = TensorNames.CorrectionBias(layer);
        foreach (var spelling in (ReadOnlySpan<string>)["moe_statics", "gate.moe_statics", "gate"])
        {
            if (_stored.Has($"{stem}.{spelling}.e_score_correction_bias"))
            {
                Vector(name, _config.ExpertCount, $"{stem}.{spelling}.e_score_correction_bias");
                return;
            }
        }
        if (_config.HasCorrectionBias)
        {
            _missing.Add(name);
            return;
        }
        if (_bound.Values.All(static tensor => tensor is not ZeroTensor)) notes.Add("moe_use_aux_free is false and no layer has a correction bias: it is zero.");
        _bound[name] = new ZeroTensor { Name = name, File = "", Rows = 1, Columns = _config.ExpertCount, Type = StoredType.Float32 };
    }

    private void Vector(string name, int length, string stem)
    {
        if (_stored.Claim(stem) is not { } tensor)
        {
            _missing.Add(name);
            return;
        }
        if (TypeOf(tensor) is not { } type) return;
        if (tensor.Shape is not ([_] or [1, _]) || tensor.Shape[^1] != length)
        {
            _wrongShapes.Add($"{tensor} (expected [{length}])");
            return;
        }
        _bound[name] = new RowMajorTensor { Name = name, File = tensor.File, Rows = 1, Columns = length, Type = type, Source = tensor.Source!, Entry = tensor.Entry, Offset = 0 };
    }

    /// <param name="name">Canonical name.</param>
    /// <param name="format">Format that it has in a quantised checkpoint; null if the configuration does not say. Without <c>quantization_config</c> it means nothing.</param>
    /// <param name="outputs">Rows.</param>
    /// <param name="inputs">Columns.</param>
    /// <param name="parts">Where it may lie.</param>
    private void Projection(string name, FastDeployFormat? format, int outputs, int inputs, params ReadOnlySpan<TensorPart> parts)
    {
        if (_quantised is null)
        {
            Linear(name, outputs, inputs, parts);
            return;
        }
        foreach (var part in parts)
        {
            if (_quantised.TryBind(name, outputs, inputs, part, format, out var bound))
            {
                if (bound is not null) _bound[name] = bound;
                return;
            }
            if (_stored.Claim(part.Stem) is { } plain)
            {
                _contradictions.Add($"{plain} is not quantised");
                return;
            }
        }
        _missing.Add(name);
    }

    private void Linear(string name, int outputs, int inputs, params ReadOnlySpan<TensorPart> parts) => Matrix(name, outputs, inputs, fixedOrientation: false, parts);

    private void Matrix(string name, int outputs, int inputs, bool fixedOrientation, params ReadOnlySpan<TensorPart> parts)
    {
        foreach (var part in parts)
        {
            if (_stored.Claim(part.Stem) is not { } tensor) continue;
            Place(name, outputs, inputs, fixedOrientation, part, tensor);
            return;
        }
        _missing.Add(name);
    }

    private void Place(string name, int outputs, int inputs, bool fixedOrientation, TensorPart part, StoredTensor tensor)
    {
        if (TypeOf(tensor) is not { } type) return;
        var matrix = tensor.Shape.AsSpan();
        var ranked = part.StackSize > 0 ? matrix.Length == 3 && matrix[0] == part.StackSize : matrix.Length == 2;
        var rowMajor = ranked && matrix[^2] == part.StoredRows && matrix[^1] == inputs;
        var transposed = ranked && !fixedOrientation && matrix[^2] == inputs && matrix[^1] == part.StoredRows;
        if (rowMajor && transposed)
        {
            _squares.Add(isTransposed => _bound[name] = Make(name, outputs, inputs, part, tensor, type, isTransposed));
        }
        else if (rowMajor || transposed)
        {
            if (transposed) _transposed ??= tensor;
            else if (!fixedOrientation) _rowMajor ??= tensor;
            _bound[name] = Make(name, outputs, inputs, part, tensor, type, transposed);
        }
        else
        {
            var stack = part.StackSize > 0 ? $"{part.StackSize}, " : "";
            _wrongShapes.Add($"{tensor} (expected [{stack}{part.StoredRows}, {inputs}]{(fixedOrientation ? "" : $" or [{stack}{inputs}, {part.StoredRows}]")})");
        }
    }

    private static CheckpointTensor Make(string name, int outputs, int inputs, TensorPart part, StoredTensor tensor, StoredType type, bool transposed)
    {
        var matrix = checked((long)part.Index * part.StoredRows * inputs);
        return transposed
            ? new TransposedTensor
            {
                Name = name, File = tensor.File, Rows = outputs, Columns = inputs, Type = type, Source = tensor.Source!, Entry = tensor.Entry,
                Offset = matrix, Stride = part.StoredRows, FirstColumn = part.FirstRow,
            }
            : new RowMajorTensor
            {
                Name = name, File = tensor.File, Rows = outputs, Columns = inputs, Type = type, Source = tensor.Source!, Entry = tensor.Entry,
                Offset = checked(matrix + (long)part.FirstRow * inputs),
            };
    }

    private void BindSquares(ICollection<string> notes)
    {
        if (_squares.Count > 0 && _rowMajor is not null && _transposed is not null)
        {
            throw new InvalidDataException($"Square matrices could be meant either way, for others are stored in both orientations: {_rowMajor} is [outputs, inputs], {_transposed} is [inputs, outputs]. {Cure}");
        }
        var decided = _rowMajor is not null || _transposed is not null;
        var transposed = decided ? _transposed is not null : _stored.HasErniePrefix;
        if (!decided) notes.Add($"All matrices are square; names {(transposed ? "with" : "without")} prefix 'ernie.' say [{(transposed ? "inputs, outputs" : "outputs, inputs")}].");
        foreach (var bind in _squares) bind(transposed);
        Layout = _hasStacks ? CheckpointLayout.FusedExperts : transposed ? CheckpointLayout.Paddle : CheckpointLayout.Split;
        if (_stored.HasErniePrefix && Layout != CheckpointLayout.Paddle) notes.Add("Names have the prefix 'ernie.', but matrices are stored [outputs, inputs].");
    }

    private StoredType? TypeOf(StoredTensor tensor)
    {
        _hasUInt16 |= tensor.Entry.ElementType == "U16";
        var type = StoredTypes.FromSafetensors(tensor.Entry.ElementType);
        if (type is null) _wrongTypes.Add(tensor.ToString());
        return type;
    }
}
