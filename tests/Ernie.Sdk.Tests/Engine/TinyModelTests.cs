using System.Text.Json;
using Ernie.Sdk.Export;
using Ernie.Sdk.GpuTests.Models;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>The shipped model, measured as its README measures it: greedy answers, exact match of the whole answer.</summary>
public sealed class TinyModelTests(ITestOutputHelper output)
{
    private static string Data(string file) => Path.Combine(SharedData.RepositoryRoot, "tests", "Ernie.Sdk.Tests", "Data", file);

    [Fact]
    public async Task Accuracy_EqualsTheReadme()
    {
        // samples/ernie-tiny-moe/README.md, column eval.jsonl.
        var readme = new Dictionary<string, (int Right, int All)>
        {
            ["doc_qa"] = (61, 70), ["doc_followup"] = (27, 30), ["json"] = (20, 24), ["smalltalk"] = (36, 36), ["tool_call"] = (24, 24), ["tool_answer"] = (16, 16),
        };
        using var model = await TinyModel.LoadAsync();
        var samples = TinySample.Read(Data("tiny-eval.jsonl"));
        var answers = await Task.WhenAll(samples.Select(sample => AnswerAsync(model, sample)));
        var measured = samples.Zip(answers)
            .GroupBy(static pair => pair.First.Task)
            .ToDictionary(static task => task.Key, static task => (Right: task.Count(static pair => pair.Second == pair.First.Expected), All: task.Count()));
        foreach (var (task, (right, all)) in measured) output.WriteLine($"{task}: {right}/{all}");
        Assert.Equal(readme.OrderBy(static r => r.Key, StringComparer.Ordinal), measured.OrderBy(static m => m.Key, StringComparer.Ordinal));
    }

    [Fact]
    public async Task LogitsAndAnswers_EqualTransformers()
    {
        using var model = await TinyModel.LoadAsync();
        using var golden = Golden.Open(Data("tiny-logits.json"));
        foreach (var sequence in golden.RootElement.GetProperty("sequences").EnumerateArray())
        {
            var ids = Golden.Ints(sequence.GetProperty("input_ids"));
            var logits = new float[ids.Length * model.VocabularySize];
            await model.ScoreAsync(ids, (position, values) => values.CopyTo(logits.AsSpan(position * model.VocabularySize)), TestContext.Current.CancellationToken);
            var from = sequence.GetProperty("from_position").GetInt32();
            var worst = Golden.MaxDifference(logits.AsSpan(from * model.VocabularySize), Golden.Floats(sequence.GetProperty("logits_f32")));
            output.WriteLine($"{ids.Length} tokens: largest logit difference {worst:E2}");
            // The golden data's own distance to float64 is 1.6e-4; a close router decision inside a prompt may fall either way.
            Assert.InRange(worst, 0, GoldenComparison.TinyTolerance);
            var answer = Golden.Ints(sequence.GetProperty("answer_ids"));
            Assert.Equal(answer, await model.GenerateAsync(ids, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 256 }, TestContext.Current.CancellationToken).ToListAsync(TestContext.Current.CancellationToken));
        }
    }

    /// <summary>Paired on the same prompts: right answers lost, less those won, beyond one standard deviation of the answers that changed. With KL divergence on the prompts.</summary>
    [Theory]
    [InlineData(ErniePrecision.Int8, ErniePrecision.Int8, 0.5)]
    [InlineData(ErniePrecision.Int4, ErniePrecision.Int4, 0.5)]
    [InlineData(ErniePrecision.Int2, ErniePrecision.Int4, 3)]
    public async Task Accuracy_AfterQuantisation(ErniePrecision experts, ErniePrecision dense, double points)
    {
        using var folder = new TemporaryFolder();
        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("model"), new ErnieExportOptions { Experts = experts, Dense = dense }, cancellationToken: TestContext.Current.CancellationToken);
        using var source = await TinyModel.LoadAsync();
        using var quantised = await ErnieModel.LoadAsync(folder.File("model"), new ErnieModelOptions { KvCacheType = ErnieKvCacheType.Float32, KvCacheBytes = 256 << 20, Threads = 2 }, cancellationToken: TestContext.Current.CancellationToken);
        var samples = TinySample.Read(Data("tiny-eval.jsonl"));
        var before = await Task.WhenAll(samples.Select(sample => AnswerAsync(source, sample)));
        var after = await Task.WhenAll(samples.Select(sample => AnswerAsync(quantised, sample)));
        int lost = 0, won = 0, right = 0;
        for (var i = 0; i < samples.Count; i++)
        {
            var expected = samples[i].Expected;
            if (before[i] == expected && after[i] != expected) lost++;
            if (before[i] != expected && after[i] == expected) won++;
            if (after[i] == expected) right++;
        }
        var divergence = new DivergenceSum();
        foreach (var sample in samples.Where(static (_, i) => i % 20 == 0))
        {
            var ids = sample.Ids(source);
            var logits = new float[ids.Length * source.VocabularySize];
            await source.ScoreAsync(ids, (position, values) => values.CopyTo(logits.AsSpan(position * source.VocabularySize)), TestContext.Current.CancellationToken);
            await quantised.ScoreAsync(ids, (position, values) =>
            {
                for (var t = 0; t * source.VocabularySize < values.Length && position + t + 1 < ids.Length; t++)
                    divergence.Add(logits.AsSpan((position + t) * source.VocabularySize, source.VocabularySize), values.Slice(t * source.VocabularySize, source.VocabularySize), ids[position + t + 1]);
            }, TestContext.Current.CancellationToken);
        }
        output.WriteLine($"experts {experts}, dense {dense}: {right}/{samples.Count} right, {lost} lost, {won} won; KL divergence {divergence.Mean:F4}, same top token {divergence.Agreement:P1}");
        Assert.InRange(100.0 * (lost - won) / samples.Count, -100, points + 100 * Math.Sqrt(lost + won) / samples.Count);
        Assert.InRange(divergence.Mean, 1e-6, 1);
    }

    /// <summary>
    /// Questions about long documents, paired: what sparse attention loses against dense, at each length beyond one standard deviation of the answers that changed. A document of 16k tokens has 128
    /// blocks; the defaults read nearly all of them, so tighter limits are reported beside, without a bound: the shared data's README shows that this model needs most blocks.
    /// </summary>
    [Fact]
    public async Task Accuracy_OfSparseAttentionOnLongDocuments()
    {
        Assert.SkipUnless(Environment.GetEnvironmentVariable("ERNIE_FULL") == "1", "Takes several minutes; ERNIE_FULL=1 runs it.");
        var file = SharedData.Path("ernie-tiny-moe", "long_eval.jsonl");
        var samples = TinySample.Read(file);
        int[] lengths = [.. File.ReadLines(file).Select(static line => JsonDocument.Parse(line).RootElement.GetProperty("length").GetInt32())];
        ErnieSparseAttention[] settings = [ErnieSparseAttention.Dense, new(), Limits(24, 32), Limits(12, 16), Limits(6, 8)];
        using var model = await TinyModel.LoadAsync(static options => (options.KvCacheBytes, options.MaxConcurrentRequests, options.PrefillChunkTokens) = (1L << 30, 2, 1024));
        var right = new bool[settings.Length][];
        for (var s = 0; s < settings.Length; s++)
        {
            var answers = await Task.WhenAll(samples.Select(sample => AnswerAsync(model, sample, settings[s])));
            right[s] = [.. answers.Zip(samples, static (answer, sample) => answer == sample.Expected)];
            foreach (var length in lengths.Distinct().Order())
            {
                int[] group = [.. Enumerable.Range(0, samples.Count).Where(i => lengths[i] == length)];
                int lost = group.Count(i => right[0][i] && !right[s][i]), won = group.Count(i => !right[0][i] && right[s][i]);
                output.WriteLine($"{(settings[s].Enabled ? $"{settings[s].EncoderTopKLeft}/{settings[s].EncoderTopKRight}, decode {settings[s].DecoderTopKLeft}/{settings[s].DecoderTopKRight}" : "dense")}: {length} tokens {group.Count(i => right[s][i])}/{group.Length} right, {lost} lost, {won} won");
                if (s == 1) Assert.InRange(100.0 * (lost - won) / group.Length, -100, 1 + 100 * Math.Sqrt(lost + won) / group.Length);
            }
        }

        static ErnieSparseAttention Limits(int left, int right) => new() { EncoderTopKLeft = left, EncoderTopKRight = right, DecoderTopKLeft = left, DecoderTopKRight = right };
    }

    private static async Task<string> AnswerAsync(ErnieModel model, TinySample sample, ErnieSparseAttention? attention = null) =>
        sample.Visible(model, await sample.AnswerAsync(model, attention, TestContext.Current.CancellationToken));
}
