using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Export;

/// <summary>Squared errors of a panel or a weight beside the squares of the weights, plain and with each input weighted by its mean square.</summary>
internal readonly record struct TensorError(double Error, double Norm, double WeightedError, double WeightedNorm)
{
    public static TensorError operator +(TensorError a, TensorError b) =>
        new(a.Error + b.Error, a.Norm + b.Norm, a.WeightedError + b.WeightedError, a.WeightedNorm + b.WeightedNorm);

    /// <param name="layout">Of the panel.</param>
    /// <param name="panel">What was written.</param>
    /// <param name="weights">[rows, columns] what was to be written.</param>
    /// <param name="moments">[columns] E[x²].</param>
    public static TensorError Of(in PanelLayout layout, ReadOnlySpan<byte> panel, ReadOnlySpan<float> weights, ReadOnlySpan<float> moments)
    {
        var columns = moments.Length;
        var row = new float[columns];
        double error = 0, norm = 0, weightedError = 0, weightedNorm = 0;
        for (var r = 0; r < weights.Length / columns; r++)
        {
            PanelPacker.Unpack(layout, panel, r, row);
            for (var k = 0; k < columns; k++)
            {
                double w = weights[r * columns + k], d = row[k] - w;
                error += d * d;
                norm += w * w;
                weightedError += d * d * moments[k];
                weightedNorm += w * w * moments[k];
            }
        }
        return new TensorError(error, norm, weightedError, weightedNorm);
    }
}

/// <summary>What quantisation cost: errors of every weight, and how the model's predictions changed on tokens that were held out. The file <c>quality.json</c> of a quantised export.</summary>
internal sealed class QualityReport
{
    public const string FileName = "quality.json";
    private readonly Dictionary<string, (WeightFormat Format, TensorError Error)> _tensors = new(StringComparer.Ordinal);
    private DivergenceSum _divergence = new();
    private string _text = "";

    public void Add(ExportedWeight weight, ReadOnlySpan<TensorError> errors)
    {
        var sum = _tensors.TryGetValue(weight.Name, out var known) ? known.Error : default;
        foreach (var error in errors) sum += error;
        _tensors[weight.Name] = (weight.Format, sum);
    }

    /// <summary>Compares predictions.</summary>
    /// <param name="tokens">The held-out sequences.</param>
    /// <param name="exact">[tokens, hidden] after the last norm, from source weights.</param>
    /// <param name="quantised">Likewise, from quantised ones.</param>
    /// <param name="head">(x, isQuantised): logits [tokens, vocabulary] by the head as in the source or as exported.</param>
    public void Score(CalibrationTokens tokens, TokenMatrix exact, TokenMatrix quantised, Func<TokenMatrix, bool, TokenMatrix> head)
    {
        _text = tokens.Name;
        // Logits of this many tokens are in memory at once, twice.
        const int Chunk = 64;
        var first = 0;
        foreach (var length in tokens.HeldOutLengths)
        {
            for (var t = 0; t < length - 1; t += Chunk)
            {
                var count = Math.Min(Chunk, length - 1 - t);
                int[] rows = [.. Enumerable.Range(first + t, count)];
                using TokenMatrix a = exact.Gather(rows), b = quantised.Gather(rows);
                using TokenMatrix p = head(a, false), q = head(b, true);
                for (var i = 0; i < count; i++) _divergence.Add(p.Row(i), q.Row(i), tokens.HeldOutIds[first + t + i + 1]);
            }
            first += length;
        }
    }

    /// <param name="weights">Of the model: the order of the list.</param>
    public QualityFile Finish(IEnumerable<ExportedWeight> weights) => new()
    {
        Text = _text,
        Tokens = _divergence.Tokens,
        Perplexity = _divergence.Perplexity,
        SourcePerplexity = _divergence.SourcePerplexity,
        Divergence = _divergence.Mean,
        Agreement = _divergence.Agreement,
        Tensors = [.. weights.Where(weight => _tensors.ContainsKey(weight.Name)).Select(weight => Quality(weight.Name, _tensors[weight.Name]))],
    };

    private static TensorQuality Quality(string name, (WeightFormat Format, TensorError Error) tensor) =>
        new(name, tensor.Format, Ratio(tensor.Error.Error, tensor.Error.Norm), Ratio(tensor.Error.WeightedError, tensor.Error.WeightedNorm));

    /// <summary>In six digits: the last bits depend on where an export was interrupted, and its file must not.</summary>
    private static double Ratio(double error, double norm) =>
        norm > 0 ? double.Parse((error / norm).ToString("G6", CultureInfo.InvariantCulture), CultureInfo.InvariantCulture) : 0;
}

/// <summary>How much one model's predictions differ from another's, summed over tokens.</summary>
internal sealed class DivergenceSum
{
    private double _loss;
    private double _sourceLoss;
    private double _divergence;
    private long _same;

    public long Tokens { get; private set; }
    /// <summary>exp of the mean negative log-likelihood.</summary>
    public double Perplexity => Math.Exp(_loss / Math.Max(1, Tokens));
    public double SourcePerplexity => Math.Exp(_sourceLoss / Math.Max(1, Tokens));
    /// <summary>Mean KL divergence from the source, nats a token.</summary>
    public double Mean => _divergence / Math.Max(1, Tokens);
    /// <summary>Share of tokens whose most likely successor is the same.</summary>
    public double Agreement => (double)_same / Math.Max(1, Tokens);

    /// <param name="source">[vocabulary] logits of the model compared with.</param>
    /// <param name="other">[vocabulary] logits.</param>
    /// <param name="next">The token that follows.</param>
    public void Add(ReadOnlySpan<float> source, ReadOnlySpan<float> other, int next)
    {
        var (best, otherBest) = (Engine.Sampler.ArgMax(source), Engine.Sampler.ArgMax(other));
        double sum = 0, otherSum = 0, product = 0;
        for (var i = 0; i < source.Length; i++)
        {
            var p = Math.Exp((double)source[i] - source[best]);
            sum += p;
            otherSum += Math.Exp((double)other[i] - other[otherBest]);
            product += p * ((double)source[i] - other[i]);
        }
        double log = Math.Log(sum) + source[best], otherLog = Math.Log(otherSum) + other[otherBest];
        _sourceLoss += log - source[next];
        _loss += otherLog - other[next];
        _divergence += product / sum - log + otherLog;
        _same += best == otherBest ? 1 : 0;
        Tokens++;
    }
}

/// <summary>Contents of <c>quality.json</c>.</summary>
internal sealed record QualityFile
{
    /// <summary>Where the held-out tokens come from.</summary>
    public required string Text { get; init; }
    public required long Tokens { get; init; }
    public required double Perplexity { get; init; }
    public required double SourcePerplexity { get; init; }
    /// <summary>Mean KL divergence from the source, nats a token.</summary>
    public required double Divergence { get; init; }
    /// <summary>Share of tokens with the source's most likely successor.</summary>
    public required double Agreement { get; init; }
    public required IReadOnlyList<TensorQuality> Tensors { get; init; }

    public byte[] ToJson() => JsonSerializer.SerializeToUtf8Bytes(this, QualityJson.Default.QualityFile);

    /// <summary>The report of an exported model, or null if it has none.</summary>
    /// <exception cref="InvalidDataException">The file is damaged.</exception>
    public static QualityFile? Find(string folder)
    {
        var path = Path.Combine(folder, QualityReport.FileName);
        if (!File.Exists(path)) return null;
        try
        {
            return JsonSerializer.Deserialize(File.ReadAllBytes(path), QualityJson.Default.QualityFile);
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path} cannot be read: {e.Message} Export the checkpoint again.", e);
        }
    }
}

/// <summary>Squared error of a weight over its squares; weighted: each input by its mean square in the calibration.</summary>
internal sealed record TensorQuality(string Name, WeightFormat Format, double Error, double WeightedError);

// The perplexity of an untrained model may be beyond all numbers.
[JsonSourceGenerationOptions(WriteIndented = true, PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals)]
[JsonSerializable(typeof(QualityFile))]
internal sealed partial class QualityJson : JsonSerializerContext;
