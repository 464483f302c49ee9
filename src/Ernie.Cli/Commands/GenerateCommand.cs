using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using Ernie.Sdk;
using Microsoft.Extensions.Logging;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie generate</c>: greedy continuations of token ids.</summary>
internal static class GenerateCommand
{
    public static Command Create(CommandStreams streams)
    {
        var input = CommonOptions.Input("JSON lines {\"ids\": […]}.");
        var maxTokens = new Option<int>("--max-tokens") { Description = "Most tokens to generate for a line.", Required = true, HelpName = "N" }.InRange(1, int.MaxValue);
        var ignoreEos = new Option<bool>("--ignore-eos") { Description = "Go on after a stop token." };
        var parallel = new Option<int>("--parallel") { Description = "Lines computed together. Results and their order do not depend on it.", DefaultValueFactory = static _ => 1, HelpName = "N" }.InRange(1, 4096);
        var command = new DocumentedCommand("generate",
            "Continues token ids greedily.",
            "JSON lines {\"ids\"} become {\"ids\"} of the continuation by the most likely tokens; a stop token that ends it is its last. Nothing is added to the ids.\n--log-level information reports the speed.",
            """echo '{"ids": [13, 336, 1446]}' | ernie generate samples/ernie-tiny-moe --max-tokens 16""", "ernie generate model prompts.jsonl --max-tokens 128 --parallel 8 > answers.jsonl");
        var model = ModelOptions.AddTo(command, input, defaultAttention: "dense");
        foreach (var option in new Option[] { maxTokens, ignoreEos, parallel }) command.Add(option);
        command.SetAction((result, cancellationToken) =>
        {
            // Everything that generation_config.json could change is said here: greedy means the same for every model.
            var options = new ErnieGenerationOptions { MaxTokens = result.GetValue(maxTokens), IgnoreStopTokens = result.GetValue(ignoreEos), Temperature = 0, RepetitionPenalty = 1, FrequencyPenalty = 0, PresencePenalty = 0 };
            return RunAsync(model, result, streams, result.GetValue(input), options, result.GetValue(parallel), cancellationToken);
        });
        return command;
    }

    private static async Task<int> RunAsync(ModelOptions modelOptions, ParseResult result, CommandStreams streams, string? input, ErnieGenerationOptions options, int parallel, CancellationToken cancellationToken)
    {
        using var lines = JsonLineReader.Open(input, streams);
        using var model = await modelOptions.LoadAsync(result, streams, parallel, cancellationToken).ConfigureAwait(false);
        using var progress = new ProgressLine(streams, "generate");
        using var writer = new JsonLineWriter(streams.Out, progress, flushEachLine: true);
        var clock = Stopwatch.StartNew();
        long prompt = 0, generated = 0, answered = 0, toFirst = 0;
        await OrderedWork.RunAsync(lines.ReadAllAsync(cancellationToken), parallel, ContinueAsync, writer.WriteIds, cancellationToken).ConfigureAwait(false);
        var logger = modelOptions.Logger(result, streams).CreateLogger("generate");
        if (logger.IsEnabled(LogLevel.Information)) logger.LogInformation("{Summary}", Summary());
        return ExitCode.Success;

        async Task<List<int>> ContinueAsync(JsonLine line, CancellationToken token)
        {
            var ids = line.Ids();
            var tokens = new List<int>();
            var start = Stopwatch.GetTimestamp();
            try
            {
                await foreach (var id in model.GenerateAsync(ids, options, token).ConfigureAwait(false))
                {
                    if (tokens.Count == 0) Interlocked.Add(ref toFirst, Stopwatch.GetElapsedTime(start).Ticks);
                    tokens.Add(id);
                    var all = Interlocked.Increment(ref generated);
                    progress.Show(lines.Fraction(line, (double)tokens.Count / options.MaxTokens!.Value), () => string.Create(CultureInfo.InvariantCulture, $"line {line.Number}, {all} tokens, {all / clock.Elapsed.TotalSeconds:F1} tokens/s"));
                }
            }
            catch (ArgumentException e)
            {
                throw line.Error(ErrorLine.Of(e), e);
            }
            Interlocked.Add(ref prompt, ids.Count);
            Interlocked.Increment(ref answered);
            return tokens;
        }

        string Summary()
        {
            var (seconds, first) = (clock.Elapsed.TotalSeconds, TimeSpan.FromTicks(toFirst).TotalSeconds);
            var rate = parallel > 1 ? string.Create(CultureInfo.InvariantCulture, $"{generated / seconds:F2} tokens/s together")
                : generated > answered ? string.Create(CultureInfo.InvariantCulture, $"{first:F2} s to the first tokens, {(generated - answered) / (seconds - first):F2} tokens/s after them")
                : "one token a line";
            return string.Create(CultureInfo.InvariantCulture, $"{answered} lines, {prompt} prompt tokens, {generated} generated in {seconds:F2} s: {rate}.");
        }
    }
}
