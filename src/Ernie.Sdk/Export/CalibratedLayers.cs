using System.Buffers;
using System.Numerics.Tensors;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Export;

/// <summary>
/// Quantises the packed weights of a model under what their inputs look like. Layer by layer: the calibration's tokens, whose residual stream comes from the layers quantised so far, pass the layer
/// with its source weights, which shows what every matrix is multiplied with; then they pass it again, and every matrix is quantised, written and used in its quantised form.
/// </summary>
/// <remarks>
/// In memory are the residual streams, the inputs of one layer's matrices, and one matrix. Other tokens, held out, pass the source weights and the quantised ones: the model's quality.
/// </remarks>
internal sealed unsafe class CalibratedLayers : IDisposable
{
    /// <summary>Tokens' worth of the layer's mean that an expert's own statistics are mixed with.</summary>
    private const double PriorTokens = 32;

    private readonly IWeightSource _source;
    private readonly CalibrationTokens _tokens;
    private readonly TaskRunner _parallel;
    private readonly LayerForward _forward;
    private readonly ScratchBuffer _matrix = new();
    private readonly TokenMatrix _nothing;
    private readonly Dictionary<string, (ExportedWeight Weight, SourceRows Rows, long FirstRow)> _places = new(StringComparer.Ordinal);
    private readonly PanelFile _file;
    private readonly QualityReport _report;
    private readonly CancellationToken _cancellationToken;
    private readonly ErnieConfig _config;

    /// <summary>Inputs of the current layer's matrices, by the name of the first tensor.</summary>
    private readonly Dictionary<string, TokenMatrix> _inputs = new(StringComparer.Ordinal);
    /// <summary>Metric of the current layer's MLP input, which all its experts share.</summary>
    private ErrorMetric? _shared;
    private float[]? _downMean;
    /// <summary>Rows whose errors are in the report, by weight and first row.</summary>
    private readonly HashSet<(string Weight, long Row)> _measured = [];

    public CalibratedLayers(IWeightSource source, IEnumerable<ExportedWeight> weights, CalibrationTokens tokens, PanelFile file, QualityReport report, CancellationToken cancellationToken)
    {
        (_source, _tokens, _file, _report, _cancellationToken) = (source, tokens, file, report, cancellationToken);
        _config = source.Config;
        _parallel = new TaskRunner(Environment.ProcessorCount, cancellationToken);
        _forward = new LayerForward(_config, KernelRegistry.Choose(), _parallel);
        _nothing = new TokenMatrix(0, _config.HiddenSize);
        foreach (var weight in weights)
        {
            var rows = new SourceRows(weight, source);
            long first = 0;
            foreach (var name in weight.Sources)
            {
                // A tied head is stored beside the embedding, under the same name of its source.
                if (weight.Format.IsPacked || !_places.ContainsKey(name)) _places[name] = (weight, rows, first);
                first += source.Tensor(name).Rows;
            }
        }
    }

    /// <summary>Quantises and writes every packed weight that <see cref="PanelFile"/> does not have yet.</summary>
    public void Run()
    {
        var table = _source.Tensor(TensorNames.Embedding);
        using var calibration = _forward.Embed(table, _tokens.CalibrationIds);
        using var exact = _forward.Embed(table, _tokens.HeldOutIds);
        using var quantised = _forward.Embed(table, _tokens.HeldOutIds);
        for (var layer = 0; layer < _config.LayerCount; layer++)
        {
            _cancellationToken.ThrowIfCancellationRequested();
            using (var probe = calibration.Copy()) _forward.Run(layer, probe, _tokens.CalibrationLengths, Source, (name, inputs) => _inputs[name] = inputs);
            // A pass without tokens asks for every matrix, and is done before others need memory.
            _matrix.Dispose();
            _forward.Run(layer, _nothing, [], Quantised);
            ForgetInputs();
            _forward.Run(layer, exact, _tokens.HeldOutLengths, Source);
            _forward.Run(layer, calibration, _tokens.CalibrationLengths, Quantised);
            _forward.Run(layer, quantised, _tokens.HeldOutLengths, Quantised);
        }
        Head(calibration, exact, quantised);
    }

    public void Dispose()
    {
        ForgetInputs();
        _forward.Dispose();
        _matrix.Dispose();
        _nothing.Dispose();
    }

    private void ForgetInputs()
    {
        foreach (var inputs in _inputs.Values) inputs.Dispose();
        _inputs.Clear();
        _shared?.Dispose();
        _shared = null;
        _downMean = null;
    }

    private void Head(TokenMatrix calibration, TokenMatrix exact, TokenMatrix quantised)
    {
        var name = _places.ContainsKey(TensorNames.Head) ? TensorNames.Head : TensorNames.Embedding;
        var norm = Source(TensorNames.FinalNorm);
        // The norm's weights lie in the matrix that the next read overwrites.
        var h = _forward.Norm(calibration, norm);
        using var exactRows = _forward.Norm(exact, norm);
        using var quantisedRows = _forward.Norm(quantised, norm);
        _inputs[name] = h;
        var place = _places[name];
        if (place.Weight.Format.IsPacked) Ensure(place, 0, place.Weight.Rows, name);
        _report.Score(_tokens, exactRows, quantisedRows, (x, isQuantised) => Logits(place.Weight, place.Rows, x, isQuantised));
    }

    /// <summary>[tokens, vocabulary], a few thousand rows of the head at a time.</summary>
    private TokenMatrix Logits(ExportedWeight weight, SourceRows source, TokenMatrix x, bool isQuantised)
    {
        const int RowsAtOnce = 4096;
        var logits = new TokenMatrix(x.Tokens, (int)weight.Rows);
        for (long first = 0; first < weight.Rows; first += RowsAtOnce)
        {
            var count = Math.Min(RowsAtOnce, weight.Rows - first);
            using var part = _forward.Linear(x, isQuantised && weight.Format.IsPacked ? Panels(weight, first, count) : SourceMatrix(source, first, count));
            for (var t = 0; t < x.Tokens; t++) part.Row(t).CopyTo(logits.Row(t)[(int)first..]);
        }
        return logits;
    }

    private PackedMatrix Source(params ReadOnlySpan<string> names)
    {
        var (_, rows, first) = _places[names[0]];
        return SourceMatrix(rows, first, RowCount(names));
    }

    private PackedMatrix Quantised(params ReadOnlySpan<string> names)
    {
        var place = _places[names[0]];
        if (!place.Weight.Format.IsPacked) return Source(names);
        var count = RowCount(names);
        Ensure(place, place.FirstRow, count, names[0]);
        return Panels(place.Weight, place.FirstRow, count);
    }

    private long RowCount(ReadOnlySpan<string> names)
    {
        long count = 0;
        foreach (var name in names) count += _source.Tensor(name).Rows;
        return count;
    }

    private PackedMatrix SourceMatrix(SourceRows rows, long first, long count)
    {
        var columns = (nint)rows.Weight.Columns;
        var data = (float*)_matrix.Rent(checked((nint)count * columns * sizeof(float)));
        _parallel.For((int)((count + 255) / 256), item =>
        {
            var begin = item * 256L;
            var part = Math.Min(256, count - begin);
            rows.Read(first + begin, new Span<float>(data + begin * columns, checked((int)(part * columns))));
        });
        return new PackedMatrix(WeightFormat.Float32, (byte*)data, (nint)count, columns);
    }

    /// <summary>Written rows that begin and end on panels, as the exported model's kernels read them.</summary>
    private PackedMatrix Panels(ExportedWeight weight, long first, long count)
    {
        var panelBytes = new PanelLayout(weight.Format, weight.Columns).PanelBytes;
        var panel = PanelAt(weight, first);
        var bytes = (PanelAt(weight, first + count - 1) + 1 - panel) * panelBytes;
        var data = _matrix.Rent(checked((nint)bytes));
        // Spans are shorter than matrices may be.
        for (long at = 0; at < bytes;)
        {
            var panels = Math.Min(bytes - at, (64L << 20) / panelBytes * panelBytes + panelBytes) / panelBytes;
            _file.Read(weight, panel, (int)panelBytes, new Span<byte>(data + at, (int)(panels * panelBytes)));
            panel += panels;
            at += panels * panelBytes;
        }
        return new PackedMatrix(weight.Format, data, (nint)count, (nint)weight.Columns, (nint)Math.Min(count, weight.SectionRows));
    }

    /// <summary>Quantises rows unless they are in the file, and measures what that cost, once.</summary>
    private void Ensure((ExportedWeight Weight, SourceRows Rows, long FirstRow) place, long first, long count, string name)
    {
        var weight = place.Weight;
        if (!_measured.Add((weight.Name, first))) return;
        // A quantised checkpoint's own panels are taken as they are.
        var isCarried = place.Rows.ArePacked(first, count);
        var isWritten = _file.IsWritten(weight, PanelAt(weight, first));
        if (isCarried && isWritten) return;
        _cancellationToken.ThrowIfCancellationRequested();
        var layout = new PanelLayout(weight.Format, weight.Columns);
        var columns = (int)weight.Columns;
        var metric = isCarried || isWritten ? null : Metric(name);
        var encoder = metric is not null && weight.Format.Kind == WeightKind.Int2 ? new Wint2Encoder(metric) : null;
        var moments = isCarried ? null : SecondMoments.Diagonal(InputsOf(name));
        foreach (var (row, rows) in Runs(weight, first, count))
        {
            var errors = new TensorError[PanelLayout.PanelCount(rows)];
            _parallel.For(errors.Length, panel =>
            {
                var begin = row + panel * (long)PanelLayout.Rows;
                var part = (int)Math.Min(PanelLayout.Rows, row + rows - begin);
                // Rented: a matrix has hundreds of panels, and garbage of their size outlives them by gigabytes.
                var (rentedBytes, rentedValues) = (ArrayPool<byte>.Shared.Rent((int)layout.PanelBytes), ArrayPool<float>.Shared.Rent(part * columns));
                Span<byte> bytes = rentedBytes.AsSpan(0, (int)layout.PanelBytes);
                Span<float> values = rentedValues.AsSpan(0, part * columns);
                if (isCarried)
                {
                    place.Rows.ReadPanels(layout, begin, part, bytes);
                    _file.Write(weight, PanelAt(weight, row) + panel, bytes);
                }
                else
                {
                    place.Rows.Read(begin, values);
                    if (metric is null) _file.Read(weight, PanelAt(weight, row) + panel, bytes.Length, bytes);
                    else
                    {
                        MatrixQuantizer.Quantize(weight.Format, name, values, metric, encoder, bytes);
                        _file.Write(weight, PanelAt(weight, row) + panel, bytes);
                    }
                    errors[panel] = TensorError.Of(layout, bytes, values, moments);
                }
                ArrayPool<byte>.Shared.Return(rentedBytes);
                ArrayPool<float>.Shared.Return(rentedValues);
            });
            if (!isCarried) _report.Add(weight, errors);
        }
        if (metric != _shared) metric?.Dispose();
        if (!isWritten) _file.Written(weight, PanelAt(weight, first + count - 1) + 1);
    }

    private TokenMatrix InputsOf(string name)
    {
        if (_inputs.TryGetValue(name, out var inputs)) return inputs;
        // The gates of routed experts: all see the layer's input.
        return LayerNames.TryParse(name[(name.IndexOf('.', StringComparison.Ordinal) + 1)..], out var layer, out _) ? _inputs[TensorNames.Router(layer)] : throw new ArgumentException($"Nobody has seen the inputs of {name}.", nameof(name));
    }

    /// <summary>What errors cost in the matrix whose first tensor has this name.</summary>
    private ErrorMetric Metric(string name)
    {
        if (!LayerNames.TryParse(name[(name.IndexOf('.', StringComparison.Ordinal) + 1)..], out var layer, out var rest) || !_config.IsMoeLayer(layer) || !rest.StartsWith("mlp.", StringComparison.Ordinal))
            return Feedback(name, _inputs[name], null);
        // All experts, the shared one too, see the same input; a routed one sees few tokens of it.
        if (!rest.EndsWith("down_proj.weight", StringComparison.Ordinal)) return _shared ??= Feedback(name, _inputs[TensorNames.Router(layer)], null);
        if (rest.StartsWith("mlp.shared", StringComparison.Ordinal)) return Feedback(name, _inputs[name], null);
        return Feedback(name, _inputs[name], _downMean ??= MeanOfExperts(layer));
    }

    private ErrorMetric Feedback(string name, TokenMatrix inputs, float[]? prior)
    {
        // Squares of larger values, summed over all tokens, are no floats.
        const float Most = 1e15f;
        if (inputs.Tokens > 0 && TensorPrimitives.MaxMagnitude<float>(inputs.Values) is var most && !(Math.Abs(most) < Most))
            throw new InvalidDataException($"{name}: its inputs reach {most} on {_tokens.Name}, which no trained model's do. Compare the checkpoint with its source, or export it without calibration.");
        return SecondMoments.Metric(inputs, prior, PriorTokens, _parallel);
    }

    private float[] MeanOfExperts(int layer)
    {
        var sums = new double[_config.ExpertIntermediateSize];
        long tokens = 0;
        for (var e = 0; e < _config.ExpertCount; e++)
        {
            var inputs = _inputs[TensorNames.ExpertDown(layer, e)];
            var moments = SecondMoments.Diagonal(inputs);
            for (var k = 0; k < sums.Length; k++) sums[k] += (double)moments[k] * inputs.Tokens;
            tokens += inputs.Tokens;
        }
        return [.. sums.Select(sum => (float)(sum / Math.Max(1, tokens)))];
    }

    /// <summary>Rows in runs that begin a panel each.</summary>
    private static IEnumerable<(long Row, long Count)> Runs(ExportedWeight weight, long first, long count)
    {
        for (var row = first; row < first + count;)
        {
            var rows = Math.Min(first + count - row, weight.SectionRows - row % weight.SectionRows);
            yield return (row, rows);
            row += rows;
        }
    }

    private static long PanelAt(ExportedWeight weight, long row) => row / weight.SectionRows * PanelLayout.PanelCount(weight.SectionRows) + row % weight.SectionRows / PanelLayout.Rows;
}
