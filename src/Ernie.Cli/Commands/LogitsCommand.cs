using System.CommandLine;
using System.Globalization;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie logits</c>: raw scores of every token, as NumPy files.</summary>
internal static class LogitsCommand
{
    public static Command Create(CommandStreams streams)
    {
        var input = CommonOptions.Input("JSON lines {\"ids\": […]}.");
        var output = new Option<string>("--out") { Description = "Folder for 0.npy, 1.npy, …; created if need be, files of the same names are replaced.", Required = true, HelpName = "FOLDER" };
        var command = new DocumentedCommand("logits", "Writes the scores of every token as NumPy files.",
            "JSON lines {\"ids\"} give one file a line: logits, float32 [tokens, vocabulary]. Prints {\"file\", \"shape\"} for each.",
            """echo '{"ids": [13, 336, 1446]}' | ernie logits samples/ernie-tiny-moe --out logits""", "python3 -c \"import numpy; print(numpy.load('logits/0.npy').shape)\"");
        var modelOptions = ModelOptions.AddTo(command, input, defaultAttention: "dense");
        command.Add(output);
        command.SetAction(async (result, cancellationToken) =>
        {
            using var lines = JsonLineReader.Open(result.GetValue(input), streams);
            using var model = await modelOptions.LoadAsync(result, streams, maxConcurrentRequests: 1, cancellationToken).ConfigureAwait(false);
            using var progress = new ProgressLine(streams, "logits");
            using var writer = new JsonLineWriter(streams.Out, progress, flushEachLine: true);
            var folder = CreateFolder(result.GetValue(output)!);
            var index = 0;
            await foreach (var line in lines.ReadAllAsync(cancellationToken).ConfigureAwait(false))
            {
                var ids = line.Ids();
                var name = string.Create(CultureInfo.InvariantCulture, $"{index++}.npy");
                using var file = new NpyFile(Path.Combine(folder, name), ids.Count, model.VocabularySize);
                try
                {
                    await model.ScoreAsync(ids, (position, logits) =>
                    {
                        file.Append(logits);
                        progress.Show(lines.Fraction(line, (double)position / ids.Count), () => $"line {line.Number}, token {position} of {ids.Count}");
                    }, cancellationToken).ConfigureAwait(false);
                }
                catch (ArgumentException e)
                {
                    throw line.Error(ErrorLine.Of(e), e);
                }
                file.Complete();
                writer.Write(json =>
                {
                    json.WriteString("file", name);
                    json.WriteStartArray("shape");
                    json.WriteNumberValue(ids.Count);
                    json.WriteNumberValue(model.VocabularySize);
                    json.WriteEndArray();
                });
            }
            return ExitCode.Success;
        });
        return command;
    }

    private static string CreateFolder(string path)
    {
        try
        {
            return Directory.CreateDirectory(path).FullName;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // What the system says of some folders, such as /proc, is that a file is missing.
            throw new IOException($"--out: the folder {path} cannot be created{(File.Exists(path) ? ": a file has that name" : e is UnauthorizedAccessException ? ": access is denied" : "")}. Name another one.", e);
        }
    }
}
