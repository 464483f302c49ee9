using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Quantization;

public class Wint2EncoderTests(ITestOutputHelper output)
{
    [Fact]
    public void StoredEncoding_IsNotBeaten_ByMoreThanOnePercent()
    {
        using var golden = Golden.Open(SharedData.Path("goldens", "wint2", "wint2.json"));
        foreach (var stored in golden.RootElement.GetProperty("encoded").EnumerateArray())
        {
            int inputs = stored.GetProperty("K").GetInt32(), outputs = stored.GetProperty("N").GetInt32();
            var name = stored.GetProperty("name").GetString()!;
            var parts = "abcd".Select(letter => new GoldenRandom($"{name}.{letter}")).ToArray();
            var weights = new float[outputs * inputs];
            for (var n = 0; n < outputs; n++)
            {
                for (var k = 0; k < inputs; k++)
                    weights[n * inputs + k] = n == 3 ? 0 : GoldenWeights.RoundToBFloat16((float)(0.04 * parts.Sum(part => part.Value(k * outputs + n))));
            }
            var norms = stored.GetProperty("squared_norm_per_column").EnumerateArray().Select(static e => e.GetDouble()).ToArray();
            var wanted = stored.GetProperty("squared_error_per_column").EnumerateArray().Select(static e => e.GetDouble()).ToArray();
            var encoded = new Wint2Encoder(ErrorMetric.Uniform(inputs)).Encode(weights);
            var row = new float[inputs];
            double sum = 0;
            for (var n = 0; n < outputs; n++)
            {
                encoded.Decode(n, row);
                double error = 0, norm = 0;
                for (var k = 0; k < inputs; k++)
                {
                    error += Math.Pow(row[k] - weights[n * inputs + k], 2);
                    norm += Math.Pow(weights[n * inputs + k], 2);
                }
                // Proves that these are the weights that the stored tensors belong to.
                Assert.Equal(norms[n], norm, 1e-6);
                Assert.InRange(error, 0, 1.01 * wanted[n]);
                sum += error;
            }
            output.WriteLine($"{name}: error {sum:F6}, stored {wanted.Sum():F6}");
        }
    }

    /// <summary>The study's table: bell-shaped weights, 1024 inputs; the best uniform 2-bit scheme has 0.1129.</summary>
    [Fact]
    public void GaussianWeights_LoseLessThanTheBestUniformTwoBits()
    {
        var error = RelativeError(Gaussian(64 * 1024, 7), ErrorMetric.Uniform(1024), out _);
        output.WriteLine($"{error:F4}; the study's encoder 0.1049, uniform 2-bit 0.1129");
        Assert.InRange(error, 0.08, 0.1065);
    }

    [Fact]
    public void EveryChoice_IsTheBestOfAll()
    {
        const int Inputs = 128;
        var weights = Gaussian(16 * Inputs, 3);
        var moments = Gaussian(Inputs, 4).Select(static x => MathF.Exp(x)).ToArray();
        var metric = ErrorMetric.FromMoments(moments);
        var encoded = new Wint2Encoder(metric).Encode(weights);
        double cost = 0, least = 0;
        for (var n = 0; n < 16; n++)
        {
            for (var g = 0; g < Inputs / 64; g++)
            {
                // All group scales, all bytes, in double.
                cost += Cost(n, g, Wint2.GroupScale(encoded.GroupScales[n], 64 * g));
                least += Enumerable.Range(1, 15).Min(scale => Cost(n, g, scale));
            }
        }
        output.WriteLine($"{cost:R} against {least:R}");
        Assert.InRange(cost / least, 1 - 1e-6, 1.001);

        double Cost(int n, int g, int scale)
        {
            double sum = 0;
            for (var k = 64 * g; k < 64 * (g + 1); k += 4)
            {
                var step = scale * (double)encoded.SuperScales[n];
                var best = Enumerable.Range(0, 256).Min(b => Enumerable.Range(0, 4).Sum(i =>
                    metric.Importance[k + i] * Math.Pow(weights[n * Inputs + k + i] - step * Wint2.Value(Wint2.Word((byte)b, 121, 800), i), 2)));
                sum += best;
            }
            return sum;
        }
    }

    [Fact]
    public void Outputs_DoNotDependOnTheirNeighbours()
    {
        const int Inputs = 256;
        var weights = Gaussian(16 * Inputs, 5);
        var encoder = new Wint2Encoder(Correlated(Inputs, 600, 9, out _));
        var all = encoder.Encode(weights);
        for (var n = 0; n < 16; n += 5)
        {
            var alone = encoder.Encode(weights.AsSpan(n * Inputs, Inputs));
            Assert.Equal(Enumerable.Range(0, Inputs / 4).Select(i => all.Codes[16 * i + n]), Enumerable.Range(0, Inputs / 4).Select(i => alone.Codes[16 * i]));
            Assert.Equal(all.SuperScales[n], alone.SuperScales[0]);
        }
    }

    /// <summary>The study: feedback is worth 14 % of the output's error at 2 tokens an input, and more with more tokens.</summary>
    [Fact]
    public void CorrelatedInputs_LoseLessWithFeedback()
    {
        const int Inputs = 256;
        var weights = Gaussian(32 * Inputs, 6);
        var metric = Correlated(Inputs, 2048, 11, out var inputs);
        var moments = new float[Inputs];
        for (var k = 0; k < Inputs; k++) moments[k] = metric.Moments[k];
        var plain = OutputError(weights, new Wint2Encoder(ErrorMetric.FromMoments(moments)), inputs);
        var feedback = OutputError(weights, new Wint2Encoder(metric), inputs);
        output.WriteLine($"output error {feedback:F4}, without feedback {plain:F4}");
        Assert.InRange(feedback / plain, 0.1, 0.9);
    }

    [Fact]
    public void ZeroWeights_StayZero()
    {
        var encoded = new Wint2Encoder(ErrorMetric.Uniform(128)).Encode(new float[2 * 128]);
        var row = new float[128];
        encoded.Decode(1, row);
        Assert.All(row, static value => Assert.Equal(0, value));
    }

    internal static float[] Gaussian(int count, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble())))];
    }

    /// <summary>Metric of inputs with a falling spectrum in a random basis, and fresh tokens of the same kind, [tokens][inputs].</summary>
    internal static ErrorMetric Correlated(int inputs, int tokens, int seed, out float[][] fresh)
    {
        var basis = Gaussian(inputs * inputs, seed);
        var noise = Gaussian(2 * tokens * inputs, seed + 1);
        var all = new float[2 * tokens][];
        Parallel.For(0, 2 * tokens, t =>
        {
            all[t] = new float[inputs];
            for (var i = 0; i < inputs; i++)
            {
                var strength = noise[t * inputs + i] * MathF.Pow(i + 1, -0.6f);
                for (var k = 0; k < inputs; k++) all[t][k] += strength * basis[i * inputs + k];
            }
        });
        var moments = new double[inputs * inputs];
        Parallel.For(0, inputs, i =>
        {
            for (var j = 0; j <= i; j++)
            {
                for (var t = 0; t < tokens; t++) moments[i * inputs + j] += (double)all[t][i] * all[t][j] / tokens;
            }
        });
        fresh = all[tokens..];
        return ErrorMetric.FromMoments(Moments.Of(moments), inputs, 0.1, SerialRunner.Instance);
    }

    private static double RelativeError(float[] weights, ErrorMetric metric, out float[] decoded)
    {
        var columns = metric.Columns;
        decoded = new float[weights.Length];
        var encoder = new Wint2Encoder(metric);
        for (var first = 0; first < weights.Length; first += 16 * columns)
        {
            var encoded = encoder.Encode(weights.AsSpan(first, 16 * columns));
            for (var r = 0; r < 16; r++) encoded.Decode(r, decoded.AsSpan(first + r * columns, columns));
        }
        double error = 0, norm = 0;
        for (var i = 0; i < weights.Length; i++)
        {
            error += Math.Pow(weights[i] - decoded[i], 2);
            norm += (double)weights[i] * weights[i];
        }
        return error / norm;
    }

    private static double OutputError(float[] weights, Wint2Encoder encoder, float[][] inputs)
    {
        var columns = inputs[0].Length;
        double error = 0, norm = 0;
        var row = new float[columns];
        for (var first = 0; first < weights.Length; first += 16 * columns)
        {
            var encoded = encoder.Encode(weights.AsSpan(first, 16 * columns));
            for (var r = 0; r < 16; r++)
            {
                encoded.Decode(r, row);
                foreach (var x in inputs)
                {
                    double wanted = 0, actual = 0;
                    for (var k = 0; k < columns; k++)
                    {
                        wanted += (double)weights[first + r * columns + k] * x[k];
                        actual += (double)row[k] * x[k];
                    }
                    error += (actual - wanted) * (actual - wanted);
                    norm += wanted * wanted;
                }
            }
        }
        return error / norm;
    }
}
