using System.CommandLine;
using System.Text;
using Ernie.Sdk;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie tokenize</c>: text to ids, or back.</summary>
internal static class TokenizeCommand
{
    public static Command Create(CommandStreams streams)
    {
        var folder = new Argument<string>("FOLDER") { Description = "A model, a checkpoint, or any folder with the tokenizer's files." };
        var input = CommonOptions.Input("JSON lines {\"text\": …}, or {\"ids\": […]} with --decode.");
        var decode = new Option<bool>("--decode") { Description = "Turn ids into text." };
        var plain = new Option<bool>("--plain") { Description = "Take the whole input as one text, not as JSON lines." };
        var special = new Option<bool>("--special") { Description = "Let strings such as </s> in the text become their tokens. Without it they are ordinary text." };
        var command = new DocumentedCommand("tokenize", "Turns text into token ids, or back.",
            "JSON lines {\"text\"} become {\"ids\"}; with --decode the other way round. No begin or end token is added.",
            """echo '{"text": "Who are you?"}' | ernie tokenize samples/ernie-tiny-moe""", "ernie tokenize samples/ernie-tiny-moe report.txt --plain", "ernie tokenize samples/ernie-tiny-moe ids.jsonl --decode")
        { folder, input, decode, plain, special };
        command.Validators.Add(result =>
        {
            if (result.GetValue(plain) && result.GetValue(decode)) result.AddError("--decode reads JSON lines; leave --plain out.");
        });
        command.SetAction(async (result, cancellationToken) =>
        {
            var tokenizer = ErnieTokenizer.Load(result.GetValue(folder)!);
            using var progress = new ProgressLine(streams, "tokenize");
            if (result.GetValue(plain))
            {
                using var one = new JsonLineWriter(streams.Out, progress, flushEachLine: false);
                one.WriteIds(tokenizer.EncodeToIds(await TextAsync(result.GetValue(input), streams, cancellationToken).ConfigureAwait(false), result.GetValue(special)));
                return ExitCode.Success;
            }
            using var lines = JsonLineReader.Open(result.GetValue(input), streams);
            using var writer = new JsonLineWriter(streams.Out, progress, lines.IsInteractive);
            var (toText, allowSpecial) = (result.GetValue(decode), result.GetValue(special));
            await foreach (var line in lines.ReadAllAsync(cancellationToken).ConfigureAwait(false))
            {
                if (toText) writer.Write(json => json.WriteString("text", tokenizer.Decode(line.Ids())));
                else writer.WriteIds(tokenizer.EncodeToIds(line.Text(), allowSpecial));
                progress.Show(lines.Fraction(line, 1), () => $"line {line.Number}");
            }
            return ExitCode.Success;
        });
        return command;
    }

    private static async Task<string> TextAsync(string? path, CommandStreams streams, CancellationToken cancellationToken)
    {
        try
        {
            if (path is null or "-") return await streams.In.ReadToEndAsync(cancellationToken).ConfigureAwait(false);
            return new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(await File.ReadAllBytesAsync(path, cancellationToken).ConfigureAwait(false)).TrimStart('\uFEFF');
        }
        catch (DecoderFallbackException e)
        {
            throw new InvalidDataException($"{path ?? "standard input"}: this is no UTF-8.", e);
        }
    }
}
