using Ernie.Sdk.Export;
using Ernie.Sdk.GpuTests.Checks;

namespace Ernie.Sdk.GpuTests.Models;

/// <summary>Models of this program on either device, and what is asked of them.</summary>
internal sealed class LoadedModels(PieceRun run)
{
    /// <summary>The shipped checkpoint, beside the program.</summary>
    public static string TinyCheckpoint { get; } = Path.Combine(AppContext.BaseDirectory, "ernie-tiny-moe");

    /// <summary>Exports a checkpoint into the work folder, if it is not there yet.</summary>
    public async Task<string> ExportAsync(string checkpoint, string name, ErniePrecision experts, ErniePrecision dense)
    {
        var folder = Path.GetFullPath(Path.Combine(run.Options.Work, name));
        if (!File.Exists(Path.Combine(folder, ModelManifest.FileName))) await ErnieExporter.ExportAsync(checkpoint, folder, new ErnieExportOptions { Experts = experts, Dense = dense, Calibrate = false }, cancellationToken: run.CancellationToken).ConfigureAwait(false);
        return folder;
    }

    public Task<string> ExportTinyAsync() => ExportAsync(TinyCheckpoint, "tiny-bf16", ErniePrecision.BFloat16, ErniePrecision.BFloat16);

    public Task<ErnieModel> LoadAsync(string folder, ErnieDevice device, ErnieKvCacheType kvType = ErnieKvCacheType.Float32, long kvBytes = 32 << 20, Action<ErnieModelOptions>? configure = null)
    {
        var options = new ErnieModelOptions { Device = device, KvCacheType = kvType, KvCacheBytes = kvBytes, Threads = Math.Min(8, Environment.ProcessorCount), Installation = run.Installation };
        configure?.Invoke(options);
        return ErnieModel.LoadAsync(folder, options, cancellationToken: run.CancellationToken);
    }

    /// <summary>Logits [tokens, vocabulary] of a text.</summary>
    public Task<float[]> LogitsAsync(ErnieModel model, IReadOnlyList<int> ids) => LogitsAsync(model, ids, run.CancellationToken);

    /// <summary>The same outside a piece.</summary>
    public static async Task<float[]> LogitsAsync(ErnieModel model, IReadOnlyList<int> ids, CancellationToken cancellationToken)
    {
        var all = new float[ids.Count * model.VocabularySize];
        await model.ScoreAsync(ids, (first, logits) => logits.CopyTo(all.AsSpan(first * model.VocabularySize)), cancellationToken).ConfigureAwait(false);
        return all;
    }

    /// <summary>The likeliest tokens, one after another, whatever comes.</summary>
    public async Task<List<int>> AnswerAsync(ErnieModel model, IReadOnlyList<int> prompt, int tokens)
    {
        var options = new ErnieGenerationOptions { Temperature = 0, RepetitionPenalty = 1, FrequencyPenalty = 0, PresencePenalty = 0, MaxTokens = tokens, IgnoreStopTokens = true };
        return await model.GenerateAsync([.. prompt], options, run.CancellationToken).ToListAsync(run.CancellationToken).ConfigureAwait(false);
    }

    /// <summary>
    /// Whether two models answer alike. Where they part, the first model must rate both tokens alike but for <paramref name="tie"/>, and the rest of that answer is not compared: it answers another text.
    /// </summary>
    public async Task CompareAnswersAsync(ErnieModel expected, ErnieModel actual, IReadOnlyList<int[]> prompts, int tokens, double tie, Findings findings)
    {
        var answers = new List<(int[] Prompt, List<int> Wanted, List<int> Given)>();
        foreach (var prompt in prompts) answers.Add((prompt, await AnswerAsync(expected, prompt, tokens).ConfigureAwait(false), await AnswerAsync(actual, prompt, tokens).ConfigureAwait(false)));
        await CompareAnswersAsync(expected, answers, tie, findings).ConfigureAwait(false);
    }

    /// <summary>The same of answers that are there.</summary>
    public async Task CompareAnswersAsync(ErnieModel expected, IEnumerable<(int[] Prompt, List<int> Wanted, List<int> Given)> answers, double tie, Findings findings)
    {
        var ties = new List<string>();
        foreach (var (prompt, wanted, given) in answers)
        {
            var same = 0;
            while (same < Math.Min(wanted.Count, given.Count) && wanted[same] == given[same]) same++;
            if (same == Math.Min(wanted.Count, given.Count))
            {
                findings.True(wanted.Count == given.Count, $"prompt of {prompt.Length} tokens: {given.Count} tokens instead of {wanted.Count}.");
                continue;
            }
            var logits = (await LogitsAsync(expected, [.. prompt, .. wanted[..same]]).ConfigureAwait(false))[^expected.VocabularySize..];
            double difference = logits[wanted[same]] - logits[given[same]];
            ties.Add($"prompt of {prompt.Length}, token {same}: logits {difference:E1} apart");
            findings.True(Math.Abs(difference) <= tie, $"prompt of {prompt.Length} tokens, token {same} of the answer: {given[same]} instead of {wanted[same]}, whose logits are {difference:E2} apart; {tie:E1} would be a tie.");
        }
        if (ties.Count > 0) findings.Remark = $"{ties.Count} ties: {string.Join("; ", ties)}";
    }

    public static int[] Ids(int seed, int count)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => random.Next(3, 2000))];
    }
}
