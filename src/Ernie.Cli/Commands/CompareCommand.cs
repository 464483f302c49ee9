using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Ernie.Sdk;
using Ernie.Sdk.Export;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie compare</c>: what other precisions cost, measured between exported models.</summary>
internal static class CompareCommand
{
    /// <summary>Sequences of 512 tokens that are scored at most.</summary>
    private const int MaxSequences = 64;

    public static Command Create(CommandStreams streams)
    {
        var reference = new Argument<string>("REFERENCE") { Description = "The exported model that others are compared with." };
        var models = new Argument<string[]>("MODEL") { Description = "Exported models of the same checkpoint.", Arity = ArgumentArity.OneOrMore };
        var text = new Option<string?>("--text") { Description = "Text to compare on, parts of it between lines of '---'. [default: the held-out part of the text that exports are calibrated with]", HelpName = "FILE" };
        var ids = new Option<string?>("--ids") { Description = "JSON lines {\"ids\": […]} to compare on.", HelpName = "FILE" };
        var plot = new Option<string?>("--plot") { Description = "Writes bits a weight against KL divergence as .svg or .png.", HelpName = "FILE" };
        var json = new Option<bool>("--json") { Description = "JSON lines instead of a table." };
        plot.Validators.Add(static result =>
        {
            if (result.Tokens is [{ Value: var path }] && Path.GetExtension(path) is not (".svg" or ".png")) result.AddError("--plot must name a file that ends in .svg or .png.");
        });
        var command = new DocumentedCommand("compare", "Compares exported models by their predictions.",
            "Bits are those of all matrices, scales included. Perplexity is that of the tokens scored; KL divergence, in nats a token, and the share of equal top tokens are against REFERENCE. Names of JSON keys: model, bits, perplexity, divergence, agreement, tokens.",
            "ernie compare model-bf16 model-int4", "ernie compare model-bf16 model-int4 model-int2 --text manual.txt --plot quality.svg")
        { reference, models, text, ids, plot, json };
        command.Validators.Add(result =>
        {
            if (result.GetValue(text) is not null && result.GetValue(ids) is not null) result.AddError("--text and --ids exclude each other.");
        });
        command.SetAction(async (result, cancellationToken) =>
        {
            var file = result.GetValue(text) ?? result.GetValue(ids);
            var rows = await CompareAsync(result.GetValue(reference)!, result.GetValue(models)!, file, streams, cancellationToken).ConfigureAwait(false);
            if (result.GetValue(plot) is { } path) QualityPlot.Save(rows, path);
            await streams.Out.WriteLineAsync(result.GetValue(json) ? Lines(rows) : Table(rows)).ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }

    private static async Task<List<ComparedModel>> CompareAsync(string reference, string[] models, string? file, CommandStreams streams, CancellationToken cancellationToken)
    {
        using var progress = new ProgressLine(streams, "compare");
        var options = new ErnieModelOptions { KvCacheType = ErnieKvCacheType.Float32, SparseAttention = ErnieSparseAttention.Dense, MaxConcurrentRequests = 1 };
        var manifest = ModelManifest.Read(reference);
        using var first = await ErnieModel.LoadAsync(reference, options, cancellationToken: cancellationToken).ConfigureAwait(false);
        // Tokens of the default text that exports are fitted to say nothing about other texts.
        var tokens = file is null ? CalibrationTokens.Read(null, () => first.Tokenizer, manifest.Config) : CalibrationTokens.Read(file, () => first.Tokenizer, manifest.Config, MaxSequences);
        var sequences = tokens.Sequences(all: file is not null).ToList();
        var rows = new List<ComparedModel>();
        foreach (var path in models)
        {
            var other = ModelManifest.Read(path);
            if (other.Config.VocabSize != manifest.Config.VocabSize) throw new InvalidDataException($"{path} has {other.Config.VocabSize} tokens, {reference} has {manifest.Config.VocabSize}. Compare exports of one checkpoint.");
            using var second = await ErnieModel.LoadAsync(path, options, cancellationToken: cancellationToken).ConfigureAwait(false);
            var sum = new DivergenceSum();
            var done = 0;
            foreach (var sequence in sequences)
            {
                // [tokens, vocabulary]
                var logits = new float[sequence.Length * first.VocabularySize];
                await first.ScoreAsync(sequence, (position, values) => values.CopyTo(logits.AsSpan(position * first.VocabularySize)), cancellationToken).ConfigureAwait(false);
                await second.ScoreAsync(sequence, (position, values) =>
                {
                    for (var t = 0; t * first.VocabularySize < values.Length && position + t < sequence.Length - 1; t++)
                        sum.Add(logits.AsSpan((position + t) * first.VocabularySize, first.VocabularySize), values.Slice(t * first.VocabularySize, first.VocabularySize), sequence[position + t + 1]);
                }, cancellationToken).ConfigureAwait(false);
                done++;
                progress.Show((rows.Count + (double)done / sequences.Count) / models.Length, () => $"{path}, {done} of {sequences.Count} sequences");
            }
            if (rows.Count == 0) rows.Add(new ComparedModel(reference, Bits(manifest), sum.SourcePerplexity, 0, 1, sum.Tokens));
            rows.Add(new ComparedModel(path, Bits(other), sum.Perplexity, sum.Mean, sum.Agreement, sum.Tokens));
        }
        return rows;
    }

    /// <summary>Bits a weight of all matrices but the embedding, of which a token reads one row.</summary>
    private static double Bits(ModelManifest manifest)
    {
        var weights = ErnieGraph.Build(manifest.Config, manifest.Formats, manifest.DebugOutputs).Weights.Where(static weight => weight.Shape.Count > 1).ToList();
        var embedding = weights.Where(static weight => weight.Name == Sdk.Checkpoints.TensorNames.Embedding && !weight.Format.IsPacked).ToList();
        if (weights.Count > embedding.Count) weights.RemoveAll(embedding.Contains);
        return 8.0 * weights.Sum(static weight => weight.Bytes) / weights.Sum(static weight => weight.Rows * weight.Columns);
    }

    private static string Table(List<ComparedModel> rows)
    {
        var width = Math.Max(5, rows.Max(static row => row.Model.Length));
        var lines = rows.Select(row => string.Create(CultureInfo.InvariantCulture, $"{row.Model.PadRight(width)}  {row.Bits,6:F3}  {row.Perplexity,10:F3}  {row.Divergence,8:F4}  {row.Agreement,8:P1}"));
        return string.Join(Environment.NewLine, [$"{"model".PadRight(width)}    bits  perplexity        KL  same top", .. lines, string.Create(CultureInfo.InvariantCulture, $"{rows[0].Tokens} tokens")]);
    }

    private static string Lines(List<ComparedModel> rows) => string.Join(Environment.NewLine, rows.Select(static row =>
    {
        using var buffer = new MemoryStream();
        using (var writer = new Utf8JsonWriter(buffer))
        {
            writer.WriteStartObject();
            writer.WriteString("model", row.Model);
            writer.WriteNumber("bits", row.Bits);
            // An untrained model's may be beyond all numbers, and JSON has no infinity.
            if (double.IsFinite(row.Perplexity)) writer.WriteNumber("perplexity", row.Perplexity);
            else writer.WriteString("perplexity", row.Perplexity.ToString(CultureInfo.InvariantCulture));
            writer.WriteNumber("divergence", row.Divergence);
            writer.WriteNumber("agreement", row.Agreement);
            writer.WriteNumber("tokens", row.Tokens);
            writer.WriteEndObject();
        }
        return System.Text.Encoding.UTF8.GetString(buffer.ToArray());
    }));
}

/// <summary>One row of a comparison; the reference's own comes first.</summary>
internal sealed record ComparedModel(string Model, double Bits, double Perplexity, double Divergence, double Agreement, long Tokens);
