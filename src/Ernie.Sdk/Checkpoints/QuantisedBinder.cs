using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Checkpoints;

/// <summary>
/// Finds the quantised matrices of a -2Bits-Paddle checkpoint and checks shapes and element types of all their parts. The format follows from the tensors; a <c>quantization_config</c> that
/// says otherwise is a contradiction.
/// </summary>
internal sealed class QuantisedBinder(StoredTensors stored, Wint2Config config, ProblemList missing, ProblemList wrongShapes, ProblemList wrongTypes, ProblemList contradictions)
{
    private const string WeightSuffix = ".weight";
    private const string IntegerSuffix = ".quant_weight";
    // Fused matrices are asked for once for each of their parts; their problems are listed once. Null: there were problems.
    private readonly Dictionary<string, Func<string, TensorPart, int, CheckpointTensor>?> _matrices = new(StringComparer.Ordinal);
    private readonly SortedDictionary<FastDeployFormat, int> _counts = [];

    /// <summary>Stored matrices of each format that occurs.</summary>
    public IReadOnlyDictionary<FastDeployFormat, int> Counts => _counts;

    /// <summary>Format that the configuration names for the routed experts of a layer; null if it names none.</summary>
    public FastDeployFormat? FormatOfExperts(int layer) => config.FormatOfExperts(layer);

    /// <summary>Whether there is such a matrix, sound or not.</summary>
    /// <param name="name">Canonical name of the weight.</param>
    /// <param name="outputs">Its rows.</param>
    /// <param name="inputs">Its columns.</param>
    /// <param name="part">Where it may lie; its stem is that of a matrix that is not quantised.</param>
    /// <param name="expected">Format that the configuration names for it; null if it names none.</param>
    /// <param name="tensor">The weight; null if there are problems.</param>
    public bool TryBind(string name, int outputs, int inputs, TensorPart part, FastDeployFormat? expected, out CheckpointTensor? tensor)
    {
        tensor = null;
        if (!part.Stem.EndsWith(WeightSuffix, StringComparison.Ordinal)) return false;
        var stem = part.Stem[..^WeightSuffix.Length];
        if (!_matrices.TryGetValue(stem, out var matrix))
        {
            if (stored.Claim(stem + IntegerSuffix) is not { } weight) return false;
            _matrices[stem] = matrix = Bind(stem, weight, part.StoredRows, inputs, expected);
        }
        tensor = matrix?.Invoke(name, part, outputs);
        return true;
    }

    private Func<string, TensorPart, int, CheckpointTensor>? Bind(string stem, StoredTensor weight, long outputs, long inputs, FastDeployFormat? expected)
    {
        var format = FormatOf(stem, weight, outputs, inputs, expected);
        _counts[format] = _counts.GetValueOrDefault(format) + 1;
        var problems = Problems;
        var bind = format == FastDeployFormat.Wint2 ? BindWint2(stem, weight, outputs, inputs) : BindChannels(stem, weight, outputs, inputs, format);
        if (expected is { } named && named != format && problems == Problems) contradictions.Add($"{weight} is {Name(format)}, quantization_config says {Name(named)}");
        return problems == Problems ? bind : null;
    }

    private long Problems => missing.Count + wrongShapes.Count + wrongTypes.Count + contradictions.Count;

    private FastDeployFormat FormatOf(string stem, StoredTensor weight, long outputs, long inputs, FastDeployFormat? expected)
    {
        if (weight.Entry.ElementType == "U8" || stored.Has($"{stem}.super_scales") || stored.Has($"{stem}.code_scale") || stored.Has($"{stem}.code_zp")) return FastDeployFormat.Wint2;
        if (weight.Shape is [var rows, var columns] && columns == inputs)
        {
            if (rows == outputs) return FastDeployFormat.Wint8;
            if (rows == outputs / 2) return FastDeployFormat.Wint4;
        }
        return expected == FastDeployFormat.Wint4 ? FastDeployFormat.Wint4 : FastDeployFormat.Wint8;
    }

    private Func<string, TensorPart, int, CheckpointTensor> BindChannels(string stem, StoredTensor weight, long outputs, long inputs, FastDeployFormat format)
    {
        var (rows, perStripe) = format == FastDeployFormat.Wint8 ? (outputs, GpuByteOrder.Outputs8) : (outputs / 2, GpuByteOrder.Outputs4);
        Check(weight, "I8", rows, inputs);
        if (inputs % GpuByteOrder.InputMultiple != 0 || outputs % perStripe != 0)
            wrongShapes.Add($"{weight} ({outputs} outputs of {inputs} inputs; {Name(format)} has a multiple of {perStripe} outputs and of {GpuByteOrder.InputMultiple} inputs)");
        var scales = Vector(stem, weight, "weight_scale", outputs);
        return (name, part, count) => new ChannelTensor
        {
            Name = name, File = weight.File, Rows = count, Columns = inputs, Type = StoredType.Float32,
            Format = format, Integers = weight, Scales = scales!, FirstOutput = part.FirstRow,
        };
    }

    private Func<string, TensorPart, int, CheckpointTensor> BindWint2(string stem, StoredTensor weight, long outputs, long inputs)
    {
        Check(weight, "U8", inputs / Wint2.InputsPerByte, outputs);
        if (inputs % Wint2.InputsPerScaleByte != 0) wrongShapes.Add($"{weight} ({inputs} inputs; WINT2 has a multiple of {Wint2.InputsPerScaleByte})");
        var groups = Part(stem, weight, "weight_scale", "U8", $"[{inputs / Wint2.InputsPerScaleByte}, {outputs}]");
        if (groups is not null) Check(groups, "U8", inputs / Wint2.InputsPerScaleByte, outputs);
        var superScales = Vector(stem, weight, "super_scales", outputs);
        var codeScales = Vector(stem, weight, "code_scale", outputs, "F32");
        var codeZeroPoints = Vector(stem, weight, "code_zp", outputs, "F32");
        return (name, part, count) => new Wint2Tensor
        {
            Name = name, File = weight.File, Rows = count, Columns = inputs, Type = StoredType.Float32,
            Codes = weight, GroupScales = groups!, SuperScales = superScales!, CodeScales = codeScales!, CodeZeroPoints = codeZeroPoints!, Stride = outputs, FirstOutput = part.FirstRow,
        };
    }

    private StoredTensor? Part(string stem, StoredTensor weight, string part, string type, string shape)
    {
        var tensor = stored.Claim($"{stem}.{part}");
        if (tensor is null) missing.Add($"{weight.Name[..^IntegerSuffix.Length]}.{part} {type} {shape}");
        return tensor;
    }

    /// <param name="stem">Stem of the matrix.</param>
    /// <param name="weight">Its integers.</param>
    /// <param name="part">Name beside them.</param>
    /// <param name="length">One value an output.</param>
    /// <param name="only">The one element type allowed; null for any of plain weights.</param>
    private StoredTensor? Vector(string stem, StoredTensor weight, string part, long length, string? only = null)
    {
        var tensor = Part(stem, weight, part, only ?? "BF16", $"[{length}]");
        if (tensor is null) return null;
        if (only is null ? StoredTypes.FromSafetensors(tensor.Entry.ElementType) is null : tensor.Entry.ElementType != only) wrongTypes.Add($"{tensor} (expected {only ?? "BF16, F16 or F32"})");
        if (tensor.Shape is not ([_] or [1, _]) || tensor.Shape[^1] != length) wrongShapes.Add($"{tensor} (expected [{length}])");
        return tensor;
    }

    private void Check(StoredTensor tensor, string type, long rows, long columns)
    {
        if (tensor.Entry.ElementType != type) wrongTypes.Add($"{tensor} (expected {type})");
        if (tensor.Shape is not [var r, var c] || r != rows || c != columns) wrongShapes.Add($"{tensor} (expected [{rows}, {columns}])");
    }

    private static string Name(FastDeployFormat format) => format.ToString().ToUpperInvariant();
}
