using Ernie.Sdk.Engine;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels.Cuda;

/// <summary>The text of <c>sampling.cu</c>, emulated, against the sampler and its naive reference.</summary>
public sealed unsafe class CudaSamplingTests
{
    private const int MaxTop = 20;

    [Fact]
    public void Draws_EqualNaiveDraws()
    {
        CudaEmulation.Of("sampling");
        var random = new Random(31);
        var compared = 0;
        for (var round = 0; round < 120; round++)
        {
            // Logits that are multiples of 1/8 make many exact ties.
            var vocabulary = round % 4 == 0 ? random.Next(1000, 3000) : random.Next(1, 200);
            float[] logits = [.. Enumerable.Range(0, vocabulary).Select(_ => random.Next(-60, 20) / 8f)];
            var settings = new SamplingSettings
            {
                Temperature = 0.2f + 2.8f * random.NextSingle(),
                TopK = random.Next(3) == 0 ? 0 : random.Next(0, 90),
                TopP = random.Next(3) == 0 ? 1 : 0.05f + 0.95f * random.NextSingle(),
                MinP = random.Next(2) == 0 ? 0 : 0.9f * random.NextSingle(),
                Seed = (ulong)random.NextInt64(),
            };
            var draw = random.Next(1000);
            if (NaiveSampler.Draw(logits, settings, draw) is not { } wanted) continue;
            compared++;
            Assert.Equal(wanted, Sample(logits, new Request(settings, draw)).Token);
        }
        Assert.True(compared > 100);
    }

    [Fact]
    public void Tokens_EqualTheSamplers_WithPenaltiesBiasAndAllowedTokens()
    {
        CudaEmulation.Of("sampling");
        const int vocabulary = 700;
        Range[] undefined = [0..3, 340..360];
        var random = new Random(5);
        var sampler = new Sampler(vocabulary, undefined);
        var requests = new List<Request>();
        var logits = RandomTensor.Floats(random, 24 * vocabulary, 12);
        for (var i = 0; i < 24; i++)
        {
            var prompt = Enumerable.Range(0, 40).Select(_ => random.Next(3, vocabulary)).ToArray();
            var answer = Enumerable.Range(0, 60).Select(_ => random.Next(3, 40)).ToArray();
            var allowed = i % 3 == 0 ? Enumerable.Range(0, (vocabulary + 63) / 64).Select(_ => (ulong)random.NextInt64()).ToArray() : null;
            if (allowed is not null) allowed[^1] &= (1UL << vocabulary % 64) - 1;
            requests.Add(new Request(new SamplingSettings
            {
                Temperature = i % 4 == 0 ? 0 : 0.8f,
                TopK = i % 5 == 0 ? 30 : 0,
                TopP = i % 2 == 0 ? 0.9f : 1,
                RepetitionPenalty = i % 3 == 1 ? 1.3f : 1,
                FrequencyPenalty = i % 4 == 2 ? 0.2f : 0,
                PresencePenalty = i % 4 == 3 ? 0.4f : 0,
                Bias = i % 2 == 1 ? [KeyValuePair.Create(17, 4f), KeyValuePair.Create(500, -100f)] : [],
                Seed = (ulong)i,
            }, i) { Prompt = prompt, Answer = answer, Allowed = allowed });
        }
        var results = Sample(logits, vocabulary, undefined, [.. requests]);
        for (var i = 0; i < requests.Count; i++)
        {
            var request = requests[i];
            var history = new TokenHistory(request.Prompt);
            foreach (var token in request.Answer) history.Add(token);
            Assert.Equal(sampler.Sample(logits.AsSpan(i * vocabulary, vocabulary), request.Settings, history, request.Draw, request.Allowed ?? default), results[i].Token);
        }
    }

    [Fact]
    public void LogProbabilities_AreThoseOfTheLogits_AndTiesGoToTheLowerId()
    {
        CudaEmulation.Of("sampling");
        float[] logits = [.. Enumerable.Range(0, 900).Select(static i => i % 50 / 4f)];
        foreach (var top in new[] { 0, 1, 5, MaxTop })
        {
            var result = Sample(logits, new Request(SamplingSettings.Greedy, 0) { Top = top });
            var expected = TokenProbabilities.Of(logits, 49, top);
            Assert.Equal(49, result.Token);
            Assert.Equal(expected.Chosen, result.LogProbability, 2e-6f);
            Assert.Equal(expected.Top.Select(static pair => pair.Id), result.Top.Select(static pair => pair.Id));
            foreach (var (a, b) in expected.Top.Zip(result.Top)) Assert.Equal(a.LogProbability, b.LogProbability, 2e-6f);
        }
    }

    [Fact]
    public void BrokenLogits_GiveATokenOfTheVocabulary()
    {
        CudaEmulation.Of("sampling");
        foreach (var special in new[] { float.NaN, float.NegativeInfinity, float.PositiveInfinity })
        {
            var logits = new float[200];
            Array.Fill(logits, special);
            var result = Sample(logits, 200, [0..3, 10..12], [new Request(new SamplingSettings { Temperature = 1 }, 0)])[0];
            Assert.Equal(3, result.Token);
            var allowed = new ulong[4];
            allowed[2] = 1UL << 7;
            result = Sample(logits, 200, [0..3], [new Request(new SamplingSettings { TopP = 0.5f }, 0) { Allowed = allowed }])[0];
            Assert.Equal(135, result.Token);
        }
        // NaN among numbers counts as smallest.
        Assert.Equal(2, Sample([float.NaN, -1, 3, float.NaN], new Request(SamplingSettings.Greedy, 0)).Token);
    }

    [Fact]
    public void ASequenceWithoutARow_IsLeftAlone_AndTheOrderOfThreadsDoesNotMatter()
    {
        CudaEmulation.Of("sampling");
        var logits = RandomTensor.Floats(new Random(3), 2 * 1500, 6);
        Request[] requests = [new(new SamplingSettings { TopP = 0.95f, TopK = 400, Seed = 7 }, 3), new(SamplingSettings.Greedy, 0) { HasRow = false }, new(new SamplingSettings { Seed = 8 }, 4)];
        var rising = Sample(logits, 1500, [], requests);
        Assert.Equal(-1, rising[1].Token);
        CudaEmulation.Descending = true;
        try { Assert.Equal(rising.Select(static result => result.Token), Sample(logits, 1500, [], requests).Select(static result => result.Token)); }
        finally { CudaEmulation.Descending = false; }
    }

    private static Result Sample(float[] logits, Request request) => Sample(logits, logits.Length, [], [request])[0];

    /// <summary>Rows of logits go to the requests that have one, in order.</summary>
    private static Result[] Sample(float[] logits, int vocabulary, Range[] undefined, Request[] requests)
    {
        List<int> historyIds = [], historyCounts = [], biasIds = [];
        List<float> biasValues = [];
        List<ulong> allowed = [];
        var rows = new List<SampleRow>();
        var words = (vocabulary + 63) / 64;
        var logitsRow = 0;
        foreach (var request in requests)
        {
            var settings = request.Settings;
            var row = new SampleRow
            {
                Seed = settings.Seed, Temperature = settings.Temperature, TopP = settings.TopP, MinP = settings.MinP,
                Repetition = settings.RepetitionPenalty, Frequency = settings.FrequencyPenalty, Presence = settings.PresencePenalty,
                TopK = settings.TopK, Greedy = settings.IsGreedy ? 1 : 0, LogitsRow = request.HasRow ? logitsRow++ : -1, HistoryBegin = historyIds.Count, BiasBegin = biasIds.Count,
                Allowed = request.Allowed is null ? -1 : allowed.Count / words, Draw = request.Draw, Top = request.Top,
            };
            foreach (var id in request.Prompt.Concat(request.Answer).Distinct())
            {
                historyIds.Add(id);
                historyCounts.Add(request.Answer.Count(token => token == id));
            }
            biasIds.AddRange(settings.Bias.Select(static pair => pair.Key));
            biasValues.AddRange(settings.Bias.Select(static pair => pair.Value));
            if (request.Allowed is not null) allowed.AddRange(request.Allowed);
            rows.Add(row with { HistoryEnd = historyIds.Count, BiasEnd = biasIds.Count });
        }
        using NativeArray<float> logitsArray = NativeArray<float>.From(logits), biasValuesArray = NativeArray<float>.From([.. biasValues]);
        using NativeArray<float> scratch = new((nint)requests.Length * vocabulary), log = new(requests.Length), topLog = new(requests.Length * MaxTop);
        using var undefinedArray = NativeArray<int>.From([.. undefined.SelectMany(static range => new[] { range.Start.Value, range.End.Value })]);
        using NativeArray<int> historyIdsArray = NativeArray<int>.From([.. historyIds]), historyCountsArray = NativeArray<int>.From([.. historyCounts]), biasIdsArray = NativeArray<int>.From([.. biasIds]);
        using NativeArray<int> tokens = new(requests.Length), topIds = new(requests.Length * MaxTop);
        using var allowedArray = NativeArray<ulong>.From([.. allowed]);
        using var rowsArray = NativeArray<SampleRow>.From([.. rows]);
        tokens.Span.Fill(-1);
        CudaEmulation.Of("sampling").Launch("sample", (requests.Length, 1, 1), 1024, 8720, logitsArray.Pointer, vocabulary, undefinedArray.Pointer, undefined.Length, rowsArray.Pointer,
            historyIdsArray.Pointer, historyCountsArray.Pointer, biasIdsArray.Pointer, biasValuesArray.Pointer, allowedArray.Pointer, words, scratch.Pointer, tokens.Pointer, log.Pointer, topIds.Pointer, topLog.Pointer, MaxTop);
        return [.. requests.Select((request, i) => new Result(tokens.Span[i], log.Span[i],
            [.. Enumerable.Range(i * MaxTop, Math.Max(0, Math.Min(request.Top, MaxTop))).Select(at => (topIds.Pointer[at], topLog.Pointer[at]))]))];
    }

    private sealed record Request(SamplingSettings Settings, int Draw)
    {
        public int[] Prompt { get; init; } = [];
        public int[] Answer { get; init; } = [];
        public ulong[]? Allowed { get; init; }
        public int Top { get; init; } = -1;
        public bool HasRow { get; init; } = true;
    }

    private sealed record Result(int Token, float LogProbability, (int Id, float LogProbability)[] Top);
}
