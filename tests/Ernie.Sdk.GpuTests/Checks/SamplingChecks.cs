using Ernie.Sdk.Engine;

namespace Ernie.Sdk.GpuTests.Checks;

/// <summary>The sampling kernel against the CPU's sampler.</summary>
internal static class SamplingChecks
{
    public const float LogTolerance = 2e-6f;

    /// <summary>With temperatures, penalties, biases and allowed tokens.</summary>
    public static void Tokens(LaunchedKernels kernels, int vocabulary, Findings findings)
    {
        Range[] undefined = [0..3, 340..360];
        var random = new Random(5);
        var sampler = new Sampler(vocabulary, undefined);
        var requests = new List<SamplingRequest>();
        var logits = RandomTensor.Floats(random, 24 * vocabulary, 12);
        for (var i = 0; i < 24; i++)
        {
            var prompt = Enumerable.Range(0, 40).Select(_ => random.Next(3, vocabulary)).ToArray();
            var answer = Enumerable.Range(0, 60).Select(_ => random.Next(3, 40)).ToArray();
            var allowed = i % 3 == 0 ? Enumerable.Range(0, (vocabulary + 63) / 64).Select(_ => (ulong)random.NextInt64()).ToArray() : null;
            if (allowed is not null && vocabulary % 64 > 0) allowed[^1] &= (1UL << vocabulary % 64) - 1;
            requests.Add(new SamplingRequest(new SamplingSettings
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
        var results = SamplingCase.Run(kernels, logits, vocabulary, undefined, [.. requests]);
        for (var i = 0; i < requests.Count; i++)
        {
            var request = requests[i];
            var history = new TokenHistory(request.Prompt);
            foreach (var token in request.Answer) history.Add(token);
            var expected = sampler.Sample(logits.AsSpan(i * vocabulary, vocabulary), request.Settings, history, request.Draw, request.Allowed ?? default);
            findings.True(expected == results[i].Token, $"request {i} of {vocabulary} ids: expected token {expected}, was {results[i].Token}.");
        }
    }

    /// <summary>Log-probabilities of the likeliest; ties go to the lower id.</summary>
    public static void LogProbabilities(LaunchedKernels kernels, Findings findings)
    {
        float[] logits = [.. Enumerable.Range(0, 900).Select(static i => i % 50 / 4f)];
        foreach (var top in new[] { 0, 1, 5, SamplingCase.MaxTop })
        {
            var result = SamplingCase.Run(kernels, logits, logits.Length, [], [new SamplingRequest(SamplingSettings.Greedy, 0) { Top = top }])[0];
            var expected = TokenProbabilities.Of(logits, 49, top);
            findings.True(result.Token == 49, $"expected token 49, was {result.Token}.");
            findings.Near([(float)expected.Chosen], [result.LogProbability], LogTolerance, 0, "log-probability of the token");
            findings.Same([.. expected.Top.Select(static pair => pair.Id)], result.Top.Select(static pair => pair.Id).ToArray(), "likeliest tokens");
            findings.Near([.. expected.Top.Select(static pair => (float)pair.LogProbability)], [.. result.Top.Select(static pair => pair.LogProbability)], LogTolerance, 0, "log-probabilities");
        }
    }
}
