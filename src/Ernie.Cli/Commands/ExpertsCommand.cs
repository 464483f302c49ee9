using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text;
using Ernie.Sdk;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie experts</c>: how routers spread tokens over experts.</summary>
internal static class ExpertsCommand
{
    /// <summary>What a model without a better text is measured on: two languages, prose, numbers and code.</summary>
    private const string DefaultText = """
        The contract may be terminated by either party with three months' notice. Revenue grew by 12.4 percent to 318 million euros, while costs fell slightly.
        Who are you? I am an assistant that reads long documents. What is the capital of Norway? Oslo. What is 7 plus 8? 15.
        合同期限为三年，自双方签字之日起生效。公司第三季度营业收入同比增长百分之八。你能做什么？我可以回答问题、总结文件并提取数据。
        for (var i = 0; i < values.Length; i++) { sum += values[i] * weights[i]; } return sum / values.Length;
        {"name": "pump", "count": 340, "city": "Oslo", "delivered": true}
        """;
    private const int RandomTokens = 512;

    public static Command Create(CommandStreams streams)
    {
        var prompt = new Option<string?>("--prompt") { Description = "Text to run through the model.", HelpName = "TEXT" };
        var text = new Option<string?>("--text") { Description = "File with the text.", HelpName = "FILE" };
        var ids = new Option<string?>("--ids") { Description = "File of JSON lines {\"ids\": […]}; '-' is standard input.", HelpName = "FILE" };
        var maxTokens = new Option<int>("--max-tokens") { Description = "Tokens to generate after each text; they count too.", DefaultValueFactory = static _ => 1, HelpName = "N" }.InRange(1, int.MaxValue);
        var plot = new Option<string?>("--plot") { Description = "Writes the heat map as a picture: FILE.svg or FILE.png.", HelpName = "FILE" };
        plot.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && !ExpertPlot.CanWrite(result.Tokens[0].Value)) result.AddError("--plot must end with .svg or .png.");
        });
        var command = new DocumentedCommand("experts",
            "Shows how the routers spread tokens over experts.",
            """
            Runs text through the model and draws a heat map: a row a layer, a character an expert, from ' ' (no token) over '░▒▓' to '█' (twice the mean or more).
              max/mean   tokens of the busiest expert over the mean; 1 is even
              cold       experts with less than a tenth of the mean
              predicted  share of choices that the layer before had predicted: its input through this layer's router
              in memory  share of sampled weight pages of predicted experts that were in memory when they were needed
            Without a text, a short one in two languages is used; for a model without a tokenizer, random ids.
            """,
            "ernie experts samples/ernie-tiny-moe", "ernie experts model --text report.txt --plot experts.svg");
        var modelOptions = ModelOptions.AddTo(command);
        foreach (var option in new Option[] { prompt, text, ids, maxTokens, plot }) command.Add(option);
        command.Validators.Add(result =>
        {
            if (new[] { prompt, text, ids }.Count(option => result.GetValue(option) is not null) > 1) result.AddError("Give one of --prompt, --text and --ids.");
        });
        command.SetAction(async (result, cancellationToken) =>
        {
            using var model = await modelOptions.LoadAsync(result, streams, maxConcurrentRequests: 1, cancellationToken, measureExperts: true).ConfigureAwait(false);
            if (model.GetExpertLoad().Layers.Count == 0) throw new InvalidDataException($"{model.ModelId} is a dense model: it has no experts.");
            var (faults, clock, decodeTicks, decoded) = (MajorFaults(), Stopwatch.StartNew(), 0L, 0L);
            using (var progress = new ProgressLine(streams, "experts"))
            {
                var done = 0L;
                var generation = new ErnieGenerationOptions { MaxTokens = result.GetValue(maxTokens), IgnoreStopTokens = true, Temperature = 0 };
                await foreach (var piece in PiecesAsync(model, result.GetValue(prompt), result.GetValue(text), result.GetValue(ids), generation.MaxTokens.Value, streams, cancellationToken).ConfigureAwait(false))
                {
                    long first = 0, tokens = 0;
                    await foreach (var _ in model.GenerateAsync(piece, generation, cancellationToken).ConfigureAwait(false))
                    {
                        if (tokens++ == 0) first = Stopwatch.GetTimestamp();
                    }
                    decodeTicks += Stopwatch.GetElapsedTime(first).Ticks;
                    decoded += tokens - 1;
                    done += piece.Count + tokens - 1;
                    progress.Show(null, () => string.Create(CultureInfo.InvariantCulture, $"{done} tokens"));
                }
            }
            var load = model.GetExpertLoad();
            foreach (var line in Lines(model.ModelId, load)) await streams.Out.WriteLineAsync(line).ConfigureAwait(false);
            await streams.Out.WriteLineAsync(Cost(clock.Elapsed, TimeSpan.FromTicks(decodeTicks), decoded, MajorFaults() - faults, model.PrefetchedBytes)).ConfigureAwait(false);
            if (result.GetValue(plot) is { } file) ExpertPlot.Save(load, model.ModelId, file);
            return ExitCode.Success;
        });
        return command;
    }

    /// <summary>The token ids to run, none longer than the context allows.</summary>
    private static async IAsyncEnumerable<IReadOnlyList<int>> PiecesAsync(ErnieModel model, string? prompt, string? textFile, string? idsFile, int maxTokens, CommandStreams streams, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        if (idsFile is not null)
        {
            using var lines = JsonLineReader.Open(idsFile, streams);
            await foreach (var line in lines.ReadAllAsync(cancellationToken).ConfigureAwait(false)) yield return line.Ids();
            yield break;
        }
        IReadOnlyList<int> ids;
        if (model.Tokenizer is { } tokenizer)
        {
            ids = tokenizer.EncodeToIds(prompt ?? (textFile is null ? DefaultText : await File.ReadAllTextAsync(textFile, new UTF8Encoding(false, throwOnInvalidBytes: true), cancellationToken).ConfigureAwait(false)), allowSpecialTokens: false);
        }
        else if (prompt is null && textFile is null)
        {
            var random = new Random(0);
            ids = [.. Enumerable.Range(0, RandomTokens).Select(_ => random.Next(model.VocabularySize))];
        }
        else
        {
            throw new InvalidDataException($"{model.Path} has no tokenizer: give token ids with --ids.");
        }
        var most = Math.Max(1, Math.Min(model.ContextLength - maxTokens, 8192));
        for (var start = 0; start < ids.Count; start += most) yield return [.. ids.Skip(start).Take(most)];
    }

    private static IEnumerable<string> Lines(string name, ErnieExpertLoad load)
    {
        var tokens = load.Layers[0].TokenCount;
        var mean = (double)tokens * load.ExpertsPerToken / load.ExpertCount;
        yield return string.Create(CultureInfo.InvariantCulture, $"{name}: {tokens} tokens, {load.ExpertsPerToken} of {load.ExpertCount} experts for each; the mean expert has {mean / tokens:P1} of the tokens.");
        yield return "";
        var width = Math.Max(load.ExpertCount, 7);
        yield return $"layer  {"experts".PadRight(width)}  max/mean  busiest           cold  predicted  in memory";
        foreach (var layer in load.Layers)
        {
            var busiest = layer.ExpertTokens.Index().MaxBy(static e => e.Item).Index;
            var cold = layer.ExpertTokens.Count(count => count < mean / 10);
            yield return string.Create(CultureInfo.InvariantCulture,
                $"{layer.Layer,5}  {Shades(layer, mean).PadRight(width)}  {layer.ExpertTokens.Max() / mean,8:F2}  {$"{busiest}: {layer.ExpertTokens[busiest] / (double)tokens:P1}",-16}  {cold,4}  {Percent(layer.PredictionAccuracy),9}  {Percent(layer.PrefetchHitRate),9}");
        }
        var all = load.Layers.SelectMany(layer => layer.ExpertTokens.Select((count, expert) => (layer.Layer, Expert: expert, Count: count))).ToList();
        var ordered = all.OrderByDescending(static e => e.Count).ToList();
        var top = ordered.Take(Math.Max(1, all.Count / 10)).Sum(static e => e.Count);
        var coldest = ordered.Where(e => e.Count < mean / 10).Reverse().ToList();
        yield return "";
        yield return string.Create(CultureInfo.InvariantCulture, $"The busiest tenth of all experts did {top / (double)ordered.Sum(static e => e.Count):P1} of the work. Mean of max/mean over layers: {load.Layers.Average(layer => layer.ExpertTokens.Max() / mean):F2}.");
        yield return coldest.Count == 0
            ? "No expert is cold."
            : $"Cold (layer:expert): {string.Join(' ', coldest.Take(16).Select(static e => string.Create(CultureInfo.InvariantCulture, $"{e.Layer}:{e.Expert}")))}{(coldest.Count > 16 ? string.Create(CultureInfo.InvariantCulture, $" and {coldest.Count - 16} more") : "")}";
    }

    private static string Cost(TimeSpan all, TimeSpan decode, long decoded, long? faults, long prefetched)
    {
        var text = new StringBuilder(string.Create(CultureInfo.InvariantCulture, $"{all.TotalSeconds:F2} s"));
        if (decoded > 0) text.Append(CultureInfo.InvariantCulture, $", {decoded} tokens decoded at {decoded / decode.TotalSeconds:F2} tokens/s");
        if (faults is not null) text.Append(CultureInfo.InvariantCulture, $", {faults} page faults that waited for the disk");
        if (prefetched > 0) text.Append(CultureInfo.InvariantCulture, $", {Size.Text(prefetched)} asked for ahead");
        return text.Append('.').ToString();
    }

    /// <summary>Page faults of this process that waited for the disk; null where the system does not tell.</summary>
    private static long? MajorFaults()
    {
        if (!OperatingSystem.IsLinux()) return null;
        // The second field is the program's name in parentheses and may hold spaces; majflt is the twelfth.
        var stat = File.ReadAllText("/proc/self/stat");
        return long.Parse(stat[(stat.LastIndexOf(')') + 2)..].Split(' ')[9], CultureInfo.InvariantCulture);
    }

    private static string Shades(ErnieLayerLoad layer, double mean) => string.Concat(layer.ExpertTokens.Select(count => count == 0 ? ' ' : (count / mean) switch
    {
        < 0.5 => '░',
        < 1 => '▒',
        < 2 => '▓',
        _ => '█',
    }));

    private static string Percent(double? share) => share is { } value ? value.ToString("P1", CultureInfo.InvariantCulture) : "-";
}
