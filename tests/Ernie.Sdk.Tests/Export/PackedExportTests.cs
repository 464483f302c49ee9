using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Export;

/// <summary>Exports to integer formats, from float weights and from quantised checkpoints.</summary>
public sealed class PackedExportTests(ITestOutputHelper output)
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    /// <summary>No row count is a multiple of 16, q|k|v share panels, and groups have ends.</summary>
    private static TinyCheckpoint Odd => new()
    {
        Hidden = 72, Heads = 3, KvHeads = 1, HeadDim = 22, Intermediate = 50, Experts = 3, ExpertIntermediate = 21, SharedExperts = 1, Layers = 2, Vocabulary = 101,
    };

    public static TheoryData<ErniePrecision, int> Formats { get; } = new()
    {
        { ErniePrecision.Int8, 32 }, { ErniePrecision.Int8, 64 }, { ErniePrecision.Int8, 128 }, { ErniePrecision.Int8, ErnieExportOptions.PerChannel },
        { ErniePrecision.Int4, 32 }, { ErniePrecision.Int4, 64 }, { ErniePrecision.Int4, 128 }, { ErniePrecision.Int4, ErnieExportOptions.PerChannel },
    };

    [Theory]
    [MemberData(nameof(Formats))]
    public async Task EveryRow_LiesInItsPlace_AsCloseAsPlainRounding(ErniePrecision precision, int group)
    {
        using var folder = new TemporaryFolder();
        Odd.Write(folder.File("checkpoint"));
        await ErnieExporter.ExportAsync(folder.File("checkpoint"), folder.File("model"), new ErnieExportOptions { Experts = precision, Dense = precision, GroupSize = group, Calibrate = false }, cancellationToken: Token);
        await ErnieExporter.VerifyAsync(folder.File("model"), cancellationToken: Token);
        using var source = Checkpoint.Open(folder.File("checkpoint"));
        var exported = new ExportedWeights(folder.File("model"));
        var packed = 0;
        foreach (var weight in exported.All)
        {
            var (expected, actual, columns) = (ReadAll(source, weight.Sources), exported.Read(weight), (int)weight.Columns);
            if (!weight.Format.IsPacked)
            {
                Assert.Equal(expected, actual);
                continue;
            }
            packed++;
            var width = group == ErnieExportOptions.PerChannel ? columns : group;
            for (var first = 0; first < expected.Length; first += first % columns + width < columns ? width : columns - first % columns)
            {
                var length = Math.Min(width, columns - first % columns);
                var wanted = expected.AsSpan(first, length);
                var got = actual.AsSpan(first, length);
                if (group == ErnieExportOptions.PerChannel)
                {
                    var codes = new sbyte[length];
                    var scale = BFloat16.ToSingle(ChannelInt.Quantise(wanted, precision == ErniePrecision.Int8 ? 127 : 7, codes));
                    Assert.True(got.SequenceEqual(codes.Select(code => code * scale).ToArray()), $"{weight.Name} at {first}");
                }
                else Assert.InRange(SquaredError(wanted, got), 0, 1e-12 + 1.01 * SquaredError(wanted, PlainRounding(wanted, precision == ErniePrecision.Int8 ? 127 : 7)));
            }
        }
        // Layer 0: q|k|v, o, gate|up, down; layer 1 has a stack of experts besides; and the head, apart from the embedding.
        Assert.Equal(4 + 6 + 1, packed);
        Assert.Equal(TensorNames.Head, exported.All[^1].Name);
        Assert.Equal((WeightFormat.BFloat16, true), (exported.Manifest.Formats.Embedding, exported.Manifest.Config.TieWordEmbeddings));
        Assert.Equal(exported.Manifest.Tensors.Sum(static t => t.Bytes), MemoryPlan.For(exported.Manifest.Config, exported.Manifest.Formats, KvElementType.BFloat16, 1).WeightBytes);
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void Logits_AreThoseOfTheSameWeightsAsFloats_ButForRoundedActivations(ErniePrecision precision, int group)
    {
        using var folder = new TemporaryFolder();
        var options = new ErnieExportOptions { Experts = precision, Dense = precision, GroupSize = group };
        Odd.Write(folder.File("checkpoint"));
        using var source = Checkpoint.Open(folder.File("checkpoint"));
        using var packed = new LoadedRunner(source, options, kernels: new ReferenceKernels());
        using var floats = new LoadedRunner(new DecodedExport(packed.Folder), new ErnieExportOptions { Experts = ErniePrecision.Float32, Dense = ErniePrecision.Float32 }, kernels: new ReferenceKernels());
        int[] ids = [1, 17, 99, 3, 42, 8, 64, 77];
        var (a, b) = (packed.Logits(ids), floats.Logits(ids));
        var (distance, size) = (Math.Sqrt(SquaredError(a, b)), Math.Sqrt(SquaredError(b, new float[b.Length])));
        output.WriteLine($"{precision}/{group}: relative distance {distance / size:E2}");
        Assert.InRange(distance / size, 1e-5, 0.03);
    }

    [Fact]
    public async Task APublishedQuantisedCheckpoint_IsCarriedBitForBit()
    {
        using var folder = new TemporaryFolder();
        // k and v share a panel, and rows of both halves of gate|up do not fill theirs.
        var two = new TwoBitsCheckpoint
        {
            Tiny = new()
            {
                Layout = TinyLayout.Paddle, Layers = 3, Hidden = 128, Heads = 8, KvHeads = 1, HeadDim = 8, Intermediate = 192, Experts = 2, ExpertIntermediate = 128, SharedExperts = 1, Tied = false, Vocabulary = 40,
            },
        };
        two.Write(folder.File("checkpoint"));
        await ErnieExporter.ExportAsync(folder.File("checkpoint"), folder.File("model"), cancellationToken: Token);
        using var source = Checkpoint.Open(folder.File("checkpoint"));
        AssertCarried(folder.File("model"), source);
        var formats = ModelManifest.Read(folder.File("model")).Formats;
        Assert.Equal((WeightFormat.Int8(0), WeightFormat.BFloat16, WeightFormat.BFloat16), (formats.Dense, formats.Embedding, formats.Head));
        Assert.Equal((WeightFormat.Int4(0), WeightFormat.Int2), (formats.OfExperts(ErnieGraph.ExpertDown(1)), formats.OfExperts(ErnieGraph.ExpertGateUp(2))));
    }

    [Fact]
    public void TheGoldenQuantisedCheckpoint_IsCarried_AndGivesTheGoldenLogits()
    {
        var checkpoint = SharedData.Path("goldens", "checkpoints", "2bits");
        using var source = Checkpoint.Open(checkpoint);
        using var model = new LoadedRunner(source, new ErnieExportOptions(), kernels: new ReferenceKernels());
        AssertCarried(model.Folder, source);
        using var golden = Golden.Open(SharedData.Path("goldens", "checkpoints", "expected-2bits.json"));
        double error = 0, size = 0;
        foreach (var sequence in GoldenComparison.Sequences(golden))
        {
            var (actual, expected) = (GoldenComparison.LogitsOf(model, sequence), Golden.Floats(sequence.GetProperty("logits_f32")));
            error += SquaredError(actual, expected);
            size += SquaredError(expected, new float[expected.Length]);
        }
        output.WriteLine($"relative distance {Math.Sqrt(error / size):E2}");
        // Activations of 8 bits in a model of random weights; those are equal to the last bit.
        Assert.InRange(Math.Sqrt(error / size), 1e-5, 0.06);
    }

    [Fact]
    public async Task AQuantisedCheckpoint_IsConvertedWhereTheOptionsSaySo()
    {
        using var folder = new TemporaryFolder();
        new TwoBitsCheckpoint().Write(folder.File("checkpoint"));
        var options = new ErnieExportOptions { Dense = ErniePrecision.Int4, GroupSize = 32 };
        await ErnieExporter.ExportAsync(folder.File("checkpoint"), folder.File("model"), options, cancellationToken: Token);
        var formats = ModelManifest.Read(folder.File("model")).Formats;
        Assert.Equal((WeightFormat.Int4(32), WeightFormat.Int4(32)), (formats.Dense, formats.Head));
        Assert.Equal((WeightFormat.Int4(0), WeightFormat.Int2), (formats.OfExperts(ErnieGraph.ExpertDown(1)), formats.OfExperts(ErnieGraph.ExpertDown(2))));
        Assert.Equal(WeightFormat.Int4(32), formats.OfDense(ErnieGraph.QueryKeyValue(0)));
    }

    [Fact]
    public async Task AModelMadeOfIntegers_LoadsAndGenerates()
    {
        using var folder = new TemporaryFolder();
        var options = new ErnieExportOptions { Experts = ErniePrecision.Int4, Dense = ErniePrecision.Int8, GroupSize = 64, Calibrate = false };
        await ErnieExporter.ExportAsync(TinyModel.Checkpoint, folder.File("model"), options, cancellationToken: Token);
        var run = await ChildProcess.RunAsync("dotnet", ["exec", ChildProcess.Cli, "generate", folder.File("model"), "--max-tokens", "4", "--ignore-eos", "--kernels", "reference"],
            input: """{"ids":[13,336,1446]}""");
        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Equal(4, System.Text.Json.Nodes.JsonNode.Parse(run.Output)!["ids"]!.AsArray().Count);
    }

    [Theory]
    [InlineData(ErniePrecision.Int4, 48, "GroupSize")]
    [InlineData((ErniePrecision)77, 128, "Experts")]
    public async Task OptionsWithoutAFormat_AreRefused(ErniePrecision experts, int group, string named)
    {
        using var export = new SmallExport();
        using var folder = new TemporaryFolder();
        var e = await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() =>
            ErnieExporter.ExportAsync(SmallExport.Checkpoint, folder.File("out"), new ErnieExportOptions { Experts = experts, GroupSize = group }, cancellationToken: Token));
        Assert.Contains(named, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Int2_IsRefused_WhereItCannotBe()
    {
        using var export = new SmallExport();
        using var folder = new TemporaryFolder();
        var e = await Assert.ThrowsAsync<NotSupportedException>(() =>
            ErnieExporter.ExportAsync(SmallExport.Checkpoint, folder.File("out"), new ErnieExportOptions { Experts = ErniePrecision.Int2 }, cancellationToken: Token));
        Assert.Contains("multiples of 128", e.Message, StringComparison.Ordinal);
        e = await Assert.ThrowsAsync<NotSupportedException>(() =>
            ErnieExporter.ExportAsync(SmallExport.Checkpoint, folder.File("out"), new ErnieExportOptions { Dense = ErniePrecision.Int2 }, cancellationToken: Token));
        Assert.Contains("routed experts only", e.Message, StringComparison.Ordinal);
        Assert.Empty(Directory.EnumerateFileSystemEntries(folder.Path));
    }

    [Theory]
    [InlineData(ErniePrecision.Int8, 128)]
    [InlineData(ErniePrecision.Int4, 32)]
    [InlineData(ErniePrecision.Int4, ErnieExportOptions.PerChannel)]
    [InlineData(ErniePrecision.Int2, 128)]
    public void RandomWeights_AreValidInEveryFormat(ErniePrecision experts, int group)
    {
        using var folder = new TemporaryFolder();
        var config = ReleasedShapes.Medium21B with
        {
            LayerCount = 2, MoeLayers = [false, true], VocabSize = 100, HiddenSize = 256, HeadCount = 3, KvHeadCount = 1, HeadDim = 40, IntermediateSize = 200, ExpertCount = 4, ExpertsPerToken = 2, ExpertIntermediateSize = 128,
        };
        var options = new ErnieExportOptions { Experts = experts, Dense = experts == ErniePrecision.Int2 ? ErniePrecision.Int4 : experts, GroupSize = group };
        ErnieExporter.Export(new SyntheticWeights(config, 5), null, folder.File("model"), options, null, Token);
        var exported = new ExportedWeights(folder.File("model"));
        foreach (var weight in exported.All.Where(static weight => weight.Format.IsPacked))
        {
            var values = exported.Read(weight);
            var scale = Math.Sqrt(1.0 / weight.Columns);
            Assert.InRange(values.Average(), -0.2 * scale, 0.2 * scale);
            Assert.InRange(Math.Sqrt(SquaredError(values, new float[values.Length]) / values.Length), 0.5 * scale, 1.5 * scale);
            // Neither rows nor sections repeat.
            Assert.Equal(weight.Rows, values.Chunk((int)weight.Columns).Select(static row => string.Join(' ', row)).Distinct().Count());
        }
    }

    private static void AssertCarried(string model, Checkpoint source)
    {
        var exported = new ExportedWeights(model);
        var formats = new HashSet<WeightKind>();
        foreach (var weight in exported.All)
        {
            formats.Add(weight.Format.Kind);
            var (expected, actual) = (ReadAll(source, weight.Sources), exported.Read(weight));
            Assert.True(actual.AsSpan().SequenceEqual(expected), weight.Name);
        }
        Assert.Superset(new HashSet<WeightKind> { WeightKind.Int8, WeightKind.Int4, WeightKind.Int2 }, formats);
    }

    private static float[] ReadAll(IWeightSource source, IEnumerable<string> names)
    {
        var values = new List<float>();
        foreach (var name in names)
        {
            var tensor = source.Tensor(name);
            var part = new float[tensor.Count];
            tensor.Read(0, part);
            values.AddRange(part);
        }
        return [.. values];
    }

    private static double SquaredError(ReadOnlySpan<float> a, ReadOnlySpan<float> b)
    {
        double sum = 0;
        for (var i = 0; i < a.Length; i++) sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        return sum;
    }

    /// <summary>The largest magnitude becomes the largest integer.</summary>
    private static float[] PlainRounding(ReadOnlySpan<float> weights, int largest)
    {
        var scale = (float)(Half)(weights.ToArray().Max(Math.Abs) / largest);
        return Array.ConvertAll(weights.ToArray(), weight => scale == 0 ? 0 : Math.Clamp(MathF.Round(weight / scale), -largest, largest) * scale);
    }

    /// <summary>What an export holds, as the weights of a float model.</summary>
    private sealed class DecodedExport : IWeightSource
    {
        private readonly Dictionary<string, (float[] Values, long Columns)> _tensors = new(StringComparer.Ordinal);

        public DecodedExport(string folder)
        {
            var exported = new ExportedWeights(folder);
            Config = exported.Manifest.Config with { TieWordEmbeddings = false };
            foreach (var weight in exported.All)
            {
                var values = exported.Read(weight);
                var row = 0L;
                foreach (var name in weight.Sources)
                {
                    var rows = weight.Sources.Count == 1 ? weight.Rows : TensorShapes.Of(Config, name).Rows;
                    _tensors[name] = (values[(int)(row * weight.Columns)..(int)((row + rows) * weight.Columns)], weight.Columns);
                    row += rows;
                }
            }
        }

        public ErnieConfig Config { get; }

        public CheckpointTensor Tensor(string canonicalName)
        {
            var (values, columns) = _tensors[canonicalName];
            return new Values(values) { Name = canonicalName, File = "", Rows = values.Length / columns, Columns = columns, Type = StoredType.Float32 };
        }

        private sealed class Values(float[] values) : CheckpointTensor
        {
            public override void Read(long firstRow, Span<float> destination) => values.AsSpan((int)(firstRow * Columns), destination.Length).CopyTo(destination);
        }
    }
}
