using System.CommandLine;
using Ernie.Sdk;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie perplexity</c>: how well the model predicts texts.</summary>
internal static class PerplexityCommand
{
    public static Command Create(CommandStreams streams)
    {
        var input = CommonOptions.Input("JSON lines {\"ids\": […]} of at least two tokens each.");
        var command = new DocumentedCommand("perplexity",
            "Measures how well the model predicts token ids.",
            """
            JSON lines {"ids"} become {"nll", "top1", "tokens"}; a last line with "total": true is over all tokens.
              nll     mean negative log-likelihood in nats; perplexity is its exponential
              top1    share of tokens that were the most likely one
              tokens  how many were scored: all but the first of a line
            """,
            """echo '{"ids": [13, 336, 1446, 331]}' | ernie perplexity samples/ernie-tiny-moe""", "ernie tokenize model texts.jsonl | ernie perplexity model");
        var modelOptions = ModelOptions.AddTo(command, input, defaultAttention: "dense");
        command.SetAction(async (result, cancellationToken) =>
        {
            using var lines = JsonLineReader.Open(result.GetValue(input), streams);
            using var model = await modelOptions.LoadAsync(result, streams, maxConcurrentRequests: 1, cancellationToken).ConfigureAwait(false);
            using var progress = new ProgressLine(streams, "perplexity");
            using var writer = new JsonLineWriter(streams.Out, progress, flushEachLine: true);
            var total = new LogLikelihood();
            await foreach (var line in lines.ReadAllAsync(cancellationToken).ConfigureAwait(false))
            {
                var score = await ScoreAsync(model, line, lines, progress, cancellationToken).ConfigureAwait(false);
                total.Add(score);
                Write(writer, score, isTotal: false);
            }
            Write(writer, total, isTotal: true);
            return ExitCode.Success;
        });
        return command;
    }

    private static async Task<LogLikelihood> ScoreAsync(ErnieModel model, JsonLine line, JsonLineReader lines, ProgressLine progress, CancellationToken cancellationToken)
    {
        var ids = line.Ids();
        if (ids.Count < 2) throw line.Error($"there is nothing to score: {ids.Count} token(s), and the first has no prediction.");
        var score = new LogLikelihood();
        try
        {
            await model.ScoreAsync(ids, (position, logits) =>
            {
                // logits: [n, vocabulary]; row t predicts token position + t + 1.
                for (var start = 0; start < logits.Length && ++position < ids.Count; start += model.VocabularySize) score.Add(logits.Slice(start, model.VocabularySize), ids[position]);
                progress.Show(lines.Fraction(line, (double)position / ids.Count), () => $"line {line.Number}, token {score.Tokens + 1} of {ids.Count}");
            }, cancellationToken).ConfigureAwait(false);
        }
        catch (Exception e) when (e is ArgumentException or InvalidDataException)
        {
            throw line.Error(ErrorLine.Of(e), e);
        }
        return score;
    }

    private static void Write(JsonLineWriter writer, LogLikelihood score, bool isTotal) => writer.Write(json =>
    {
        if (score.Tokens == 0)
        {
            json.WriteNull("nll");
            json.WriteNull("top1");
        }
        else
        {
            json.WriteNumber("nll", score.Nll / score.Tokens);
            json.WriteNumber("top1", (double)score.Top1 / score.Tokens);
        }
        json.WriteNumber("tokens", score.Tokens);
        if (isTotal) json.WriteBoolean("total", true);
    });
}
