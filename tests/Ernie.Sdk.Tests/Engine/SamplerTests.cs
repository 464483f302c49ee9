using CsCheck;
using Ernie.Sdk.Engine;

namespace Ernie.Sdk.Tests.Engine;

public sealed class SamplerTests
{
    // Logits that are multiples of 1/8 make many exact ties.
    private static readonly Gen<float[]> Logits = Gen.Int[-60, 20].Select(static i => i / 8f).Array[1, 80];
    private static readonly Gen<SamplingSettings> Settings = Gen.Select(Gen.Float[0.2f, 3], Gen.Int[0, 90], Gen.Float[0.05f, 1], Gen.Float[0, 0.9f], Gen.ULong,
        static (temperature, k, p, min, seed) => new SamplingSettings { Temperature = temperature, TopK = k, TopP = p > 0.95f ? 1 : p, MinP = min < 0.3f ? 0 : min, Seed = seed });

    [Fact]
    public void Penalties_FollowFastDeploysOrder()
    {
        // Ids 0 and 1 stand in the prompt, 1 once and 2 three times in the answer, 3 nowhere.
        var history = new TokenHistory([0, 1, 0]);
        foreach (var token in new[] { 1, 2, 2, 2 }) history.Add(token);
        float[] logits = [3, -2, 4, 1];
        history.Penalise(logits, new SamplingSettings { RepetitionPenalty = 2, FrequencyPenalty = 0.25f, PresencePenalty = 0.5f });
        // Repetition first (3/2, -2·2, 4/2), then count · frequency + presence for what stands in the answer only.
        Assert.Equal([1.5f, -4 - 0.75f, 2 - 1.25f, 1], logits);
    }

    [Fact]
    public void Temperature_ComesAfterPenalties()
    {
        // Unpenalised the first is e² times as likely; the penalty of 2 makes them equal, whatever the temperature.
        var history = new TokenHistory([]);
        history.Add(0);
        var settings = new SamplingSettings { PresencePenalty = 2, Temperature = 0.1f };
        Assert.InRange(Shares([5, 3], settings, 4000, history)[0], 0.46, 0.54);
    }

    [Fact]
    public void Greedy_TiesGoToTheLowerId()
    {
        var sampler = new Sampler(5, []);
        foreach (var settings in new[] { SamplingSettings.Greedy, new SamplingSettings { TopK = 1 }, new SamplingSettings { TopP = 0 } })
        {
            Assert.Equal(1, sampler.Sample([1, 7, 7, 0, 7], settings, null, 0));
        }
    }

    [Fact]
    public void Candidates_EqualNaiveSets() =>
        Gen.Select(Logits, Settings).Sample((logits, settings) =>
        {
            var (wanted, isClose) = NaiveSampler.Candidates(logits, settings);
            if (isClose) return;
            var actual = new Sampler(logits.Length, []).Candidates(logits, settings, null, out _).ToArray();
            Assert.Equal(wanted.Order(), actual);
        }, iter: 8_000, seed: "0000KOIPe036");

    [Fact]
    public void Draws_EqualNaiveDraws() =>
        Gen.Select(Logits, Settings, Gen.Int[0, 1000]).Sample((logits, settings, draw) =>
        {
            if (NaiveSampler.Draw(logits, settings, draw) is { } wanted) Assert.Equal(wanted, new Sampler(logits.Length, []).Sample(logits, settings, null, draw));
        }, iter: 8_000, seed: "0000KOIPe036");

    [Fact]
    public void Candidates_OfAFullVocabulary_EqualNaiveSets()
    {
        // Flat and peaked, at a size where one bucket of the ranking holds tens of thousands of tokens.
        foreach (var width in new[] { 0.0, 1e-4, 0.5, 20 })
        {
            var random = new Random(3);
            var logits = Enumerable.Range(0, 103_424).Select(_ => (float)(random.NextDouble() * width)).ToArray();
            var sampler = new Sampler(logits.Length, []);
            foreach (var settings in new[] { new SamplingSettings { TopP = 0.7f, Seed = 9 }, new SamplingSettings { TopK = 50_000, TopP = 0.9f, Seed = 9 }, new SamplingSettings { TopK = 40, Seed = 9 } })
            {
                var (wanted, isClose) = NaiveSampler.Candidates(logits, settings);
                var actual = sampler.Candidates(logits, settings, null, out _).ToArray();
                // Neighbours in so long an order differ by less than a float's rounding: the length may be off by a few where the boundary is that close.
                if (isClose) Assert.InRange(actual.Length, wanted.Length - 3, wanted.Length + 3);
                else Assert.Equal(wanted.Order(), actual);
                Assert.Contains(sampler.Sample(logits, settings, null, 4), actual);
            }
        }
    }

    [Fact]
    public void Seed_AloneDecidesADraw()
    {
        float[] logits = [.. Enumerable.Range(0, 64).Select(static i => MathF.Sin(i))];
        int[] Tokens(Sampler sampler, ulong seed) => [.. Enumerable.Range(0, 40).Select(draw => sampler.Sample(logits, new SamplingSettings { Seed = seed }, null, draw))];
        var used = new Sampler(64, []);
        _ = Tokens(used, 77);
        Assert.Equal(Tokens(new Sampler(64, []), 5), Tokens(used, 5));
        Assert.NotEqual(Tokens(used, 6), Tokens(used, 5));
        // Neighbouring seeds and neighbouring draws share nothing: the shift of one is not the sequence of the other.
        Assert.NotEqual(Tokens(used, 5)[1..], Tokens(used, 6)[..^1]);
    }

    [Fact]
    public void Draws_OfNeighbouringSeeds_AreUncorrelated()
    {
        // Pearson's correlation of n pairs has a standard deviation of 1/√n.
        const int n = 20_000;
        foreach (var (seedStep, drawStep) in new[] { (1UL, 0), (0UL, 1), (1UL, 1), (1UL << 32, 0) })
        {
            double sum = 0;
            for (var i = 0; i < n; i++) sum += 12 * (Sampler.Uniform((ulong)i, i % 7) - 0.5) * (Sampler.Uniform((ulong)i + seedStep, i % 7 + drawStep) - 0.5);
            Assert.InRange(sum / n, -4 / Math.Sqrt(n), 4 / Math.Sqrt(n));
        }
    }

    [Theory]
    [InlineData(1, 1, 0, 0)]
    [InlineData(0.6f, 1, 0, 0)]
    [InlineData(1.7f, 0.8f, 0, 0)]
    [InlineData(1, 1, 4, 0)]
    [InlineData(1, 1, 0, 0.3f)]
    public void Distribution_PassesChiSquare(float temperature, float topP, int topK, float minP)
    {
        float[] logits = [0.3f, 1.2f, -0.4f, 2, 2, -3, 0.9f, 1.4f];
        var settings = new SamplingSettings { Temperature = temperature, TopP = topP, TopK = topK, MinP = minP };
        const int draws = 40_000;
        var shares = Shares(logits, settings, draws);
        var (kept, _) = NaiveSampler.Candidates(logits, settings);
        var weights = kept.ToDictionary(static id => id, id => Math.Exp((logits[id] - 2) / temperature));
        double chiSquare = 0;
        for (var id = 0; id < logits.Length; id++)
        {
            var wanted = weights.GetValueOrDefault(id) / weights.Values.Sum();
            if (wanted == 0) Assert.Equal(0, shares[id]);
            else chiSquare += draws * (shares[id] - wanted) * (shares[id] - wanted) / wanted;
        }
        // 99.9 % of a chi-square of seven degrees of freedom; fewer degrees have less.
        Assert.InRange(chiSquare, 0, 24.3);
    }

    [Fact]
    public void UndefinedRows_AreNeverSampled()
    {
        Range[] undefined = [0..3, 10..12, 60..64];
        bool IsUndefined(int id) => id is < 3 or 10 or 11 or >= 60;
        var sampler = new Sampler(64, undefined);
        var random = new Random(8);
        foreach (var special in new[] { 0f, 50, float.PositiveInfinity, float.NaN, float.NegativeInfinity })
        {
            for (var draw = 0; draw < 300; draw++)
            {
                var logits = Enumerable.Range(0, 64).Select(id => IsUndefined(id) || float.IsNaN(special) || float.IsNegativeInfinity(special) ? special : random.NextSingle()).ToArray();
                var settings = (draw % 3) switch { 0 => SamplingSettings.Greedy, 1 => new SamplingSettings { Temperature = 5 }, _ => new SamplingSettings { TopP = 0.9f, TopK = 50 } };
                Assert.False(IsUndefined(sampler.Sample(logits, settings, null, draw)));
            }
        }
    }

    [Fact]
    public void NonFiniteLogits_NeitherCrashNorWin()
    {
        var sampler = new Sampler(6, []);
        foreach (var settings in new[] { SamplingSettings.Greedy, new SamplingSettings(), new SamplingSettings { TopP = 0.5f }, new SamplingSettings { TopK = 2, MinP = 0.1f } })
        {
            for (var draw = 0; draw < 50; draw++)
            {
                Assert.Contains(sampler.Sample([float.NaN, 1, float.NegativeInfinity, 1, float.NaN, float.NegativeInfinity], settings, null, draw), new[] { 1, 3 });
                Assert.Equal(2, sampler.Sample([0, 5, float.PositiveInfinity, float.NaN, 1, 1], settings, null, draw));
                Assert.InRange(sampler.Sample([float.NaN, float.NaN, float.NaN, float.NaN, float.NaN, float.NaN], settings, null, draw), 0, 5);
            }
        }
    }

    private static double[] Shares(float[] logits, SamplingSettings settings, int draws, TokenHistory? history = null)
    {
        var sampler = new Sampler(logits.Length, []);
        var counts = new double[logits.Length];
        for (var draw = 0; draw < draws; draw++) counts[sampler.Sample(logits, settings with { Seed = 123 }, history, draw)]++;
        return [.. counts.Select(count => count / draws)];
    }
}
