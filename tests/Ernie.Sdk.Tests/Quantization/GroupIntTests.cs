using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Quantization;

public class GroupIntTests(ITestOutputHelper output)
{
    /// <summary>The study's table: bell-shaped weights, best of 40 clip ratios 0.0090 (groups of 64) and 0.0102 (128); largest magnitude 0.0115 and 0.0137.</summary>
    [Theory]
    [InlineData(64, 0.0090)]
    [InlineData(128, 0.0102)]
    public void GaussianWeights_LoseNoMoreThanTheStudys(int group, double studied)
    {
        var error = RelativeError(WeightFormat.Int4(group), Wint2EncoderTests.Gaussian(64 * 1024, 7), ErrorMetric.Uniform(1024));
        output.WriteLine($"{error:F5}, the study's {studied:F5}");
        Assert.InRange(error, 0.5 * studied, 1.01 * studied);
    }

    [Fact]
    public void EightBits_LoseNextToNothing() => Assert.InRange(RelativeError(WeightFormat.Int8(64), Wint2EncoderTests.Gaussian(16 * 1024, 8), ErrorMetric.Uniform(1024)), 1e-6, 4.2e-5);

    [Fact]
    public void Scale_IsNotWorseThanAnyOtherOfTheGroup()
    {
        const int Columns = 96;
        var weights = Wint2EncoderTests.Gaussian(16 * Columns, 1);
        var moments = Wint2EncoderTests.Gaussian(Columns, 2).Select(static x => x * x).ToArray();
        var metric = ErrorMetric.FromMoments(moments);
        // Groups of 64 and 32: the last one is short.
        sbyte[] codes = new sbyte[weights.Length];
        float[] scales = new float[16 * 2];
        GroupInt.Quantize(WeightFormat.Int4(64), weights, metric, codes, scales);
        for (var r = 0; r < 16; r++)
        {
            for (var g = 0; g < 2; g++)
            {
                var (first, end) = (64 * g, Math.Min(Columns, 64 * g + 64));
                Assert.Equal((float)(Half)scales[2 * r + g], scales[2 * r + g]);
                var cost = Cost(scales[2 * r + g]);
                var own = Enumerable.Range(first, end - first).Sum(k => metric.Importance[k] * Math.Pow(weights[r * Columns + k] - codes[r * Columns + k] * (double)scales[2 * r + g], 2));
                Assert.Equal(cost, own, 1e-4 * cost);
                var peak = Enumerable.Range(first, end - first).Max(k => Math.Abs(weights[r * Columns + k]));
                for (var i = 200; i <= 1000; i++)
                {
                    // A finer search may find a little more.
                    Assert.True(cost <= 1.04 * Cost((float)(Half)(peak / 7 * i / 1000)), $"row {r}, group {g}, ratio {i / 1000.0}");
                }

                double Cost(float scale) => Enumerable.Range(first, end - first).Sum(k =>
                    metric.Importance[k] * Math.Pow(weights[r * Columns + k] - Math.Clamp(Math.Round(weights[r * Columns + k] / scale), -8, 7) * scale, 2));
            }
        }
    }

    [Fact]
    public void CorrelatedInputs_LoseLessWithFeedback()
    {
        const int Columns = 256;
        var weights = Wint2EncoderTests.Gaussian(16 * Columns, 3);
        var metric = Wint2EncoderTests.Correlated(Columns, 2048, 21, out var inputs);
        var plain = OutputError(ErrorMetric.FromMoments(metric.Moments));
        var feedback = OutputError(metric);
        output.WriteLine($"output error {feedback:E3}, without feedback {plain:E3}");
        Assert.InRange(feedback / plain, 0.2, 0.9);

        double OutputError(ErrorMetric with)
        {
            var decoded = Decoded(WeightFormat.Int4(128), weights, with);
            double error = 0, norm = 0;
            foreach (var x in inputs)
            {
                for (var r = 0; r < 16; r++)
                {
                    double wanted = 0, difference = 0;
                    for (var k = 0; k < Columns; k++)
                    {
                        wanted += (double)weights[r * Columns + k] * x[k];
                        difference += ((double)decoded[r * Columns + k] - weights[r * Columns + k]) * x[k];
                    }
                    error += difference * difference;
                    norm += wanted * wanted;
                }
            }
            return error / norm;
        }
    }

    [Fact]
    public void Rows_DoNotDependOnTheirNeighbours()
    {
        var weights = Wint2EncoderTests.Gaussian(16 * 256, 5);
        var metric = Wint2EncoderTests.Correlated(256, 300, 5, out _);
        var all = Decoded(WeightFormat.Int4(32), weights, metric);
        for (var r = 0; r < 16; r += 3) Assert.Equal(all[(r * 256)..((r + 1) * 256)], Decoded(WeightFormat.Int4(32), weights[(r * 256)..((r + 1) * 256)], metric));
    }

    [Fact]
    public void ExtremeWeights_AreClippedToWhatFp16Holds()
    {
        var weights = new float[128];
        (weights[0], weights[1], weights[64]) = (60000, -60000, 1e-12f);
        var decoded = Decoded(WeightFormat.Int4(64), weights, ErrorMetric.Uniform(128));
        Assert.InRange(decoded[0] / weights[0], 0.9, 1.1);
        Assert.All(decoded[64..], static value => Assert.Equal(0, value));
        Assert.Throws<InvalidDataException>(() => MatrixQuantizer.Quantize(WeightFormat.Int4(64), "w", new float[] { 1e9f, 0 }, ErrorMetric.Uniform(2), new byte[new PanelLayout(WeightFormat.Int4(64), 2).PanelBytes]));
    }

    [Fact]
    public unsafe void Factor_GivesTheMomentsBack()
    {
        const int Columns = 77;
        var x = Wint2EncoderTests.Gaussian(Columns * 200, 31);
        var moments = new double[Columns * Columns];
        for (var i = 0; i < Columns; i++)
        {
            for (var j = 0; j <= i; j++) moments[i * Columns + j] = Enumerable.Range(0, 200).Sum(t => (double)x[t * Columns + i] * x[t * Columns + j]) / 200;
        }
        using var serial = ErrorMetric.FromMoments(Moments.Of(moments), Columns, 0.25, SerialRunner.Instance);
        using var parallel = ErrorMetric.FromMoments(Moments.Of(moments), Columns, 0.25, new TaskRunner(3));
        for (var j = 0; j < Columns; j++) Assert.True(new Span<float>(serial.Factor + j * Columns, j + 1).SequenceEqual(new Span<float>(parallel.Factor + j * Columns, j + 1)));
        for (var i = 0; i < Columns; i++)
        {
            for (var j = 0; j <= i; j++)
            {
                double product = 0;
                for (var k = i; k < Columns; k++) product += (double)serial.Factor[k * Columns + i] * serial.Factor[k * Columns + j];
                Assert.Equal(i == j ? 1.01 * moments[i * Columns + i] : 0.75 * moments[i * Columns + j], product, 1e-5);
            }
        }
    }

    private static float[] Decoded(WeightFormat format, float[] weights, ErrorMetric metric)
    {
        var (columns, rows) = (metric.Columns, weights.Length / metric.Columns);
        var groups = (columns + format.Group - 1) / format.Group;
        var decoded = new float[weights.Length];
        for (var first = 0; first < rows; first += 16)
        {
            var count = Math.Min(16, rows - first);
            var codes = new sbyte[count * columns];
            var scales = new float[count * groups];
            GroupInt.Quantize(format, weights.AsSpan(first * columns, count * columns), metric, codes, scales);
            for (var i = 0; i < codes.Length; i++) decoded[first * columns + i] = codes[i] * scales[i / columns * groups + i % columns / format.Group];
        }
        return decoded;
    }

    private static double RelativeError(WeightFormat format, float[] weights, ErrorMetric metric)
    {
        var decoded = Decoded(format, weights, metric);
        double error = 0, norm = 0;
        for (var i = 0; i < weights.Length; i++)
        {
            error += Math.Pow(weights[i] - decoded[i], 2);
            norm += (double)weights[i] * weights[i];
        }
        return error / norm;
    }
}
