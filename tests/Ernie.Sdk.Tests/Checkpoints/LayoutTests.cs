using CsCheck;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Tests.Checkpoints;

public class LayoutTests
{
    private static readonly TinyCheckpoint Moe = new() { Layers = 3, Experts = 5, SharedExperts = 2, Tied = false };

    [Theory]
    [InlineData(TinyLayout.Split, CheckpointLayout.Split)]
    [InlineData(TinyLayout.Unprefixed, CheckpointLayout.Split)]
    [InlineData(TinyLayout.FusedExperts, CheckpointLayout.FusedExperts)]
    [InlineData(TinyLayout.Paddle, CheckpointLayout.Paddle)]
    [InlineData(TinyLayout.FusedRows, CheckpointLayout.Split)]
    [InlineData(TinyLayout.FusedRowsErnie, CheckpointLayout.Split)]
    internal void EveryLayout_GivesTheSameWeights(TinyLayout written, CheckpointLayout layout)
    {
        AssertReads(Moe with { Layout = written }, layout);
        AssertReads(Moe with { Layout = written, Tied = true, SharedExperts = 0 }, layout);
        if (written != TinyLayout.FusedExperts) AssertReads(new TinyCheckpoint { Layout = written }, layout);
    }

    [Theory]
    [InlineData(StoredType.Float32)]
    [InlineData(StoredType.Float16)]
    [InlineData(StoredType.BFloat16)]
    internal void EveryElementType_IsWidenedExactly(StoredType type)
    {
        foreach (var layout in Enum.GetValues<TinyLayout>()) AssertReads(Moe with { Layout = layout, Type = type, RouterType = type });
    }

    [Fact]
    public void Shards_WithAndWithoutIndex()
    {
        using var folder = new TemporaryFolder();
        var tiny = Moe with { Shards = 3 };
        tiny.Write(folder.Path);
        AssertWeights(tiny, folder.Path);
        File.Delete(folder.File("model.safetensors.index.json"));
        using var checkpoint = Checkpoint.Open(folder.Path);
        Assert.Contains(checkpoint.Notes, note => note.Contains("index", StringComparison.Ordinal));
        AssertWeights(tiny, folder.Path);
    }

    [Fact]
    public void SquareOutputProjection_FollowsTheLayout()
    {
        // 4 heads of 8 = hidden 32, and experts as wide as the hidden size, so that down_proj is square as well.
        var square = Moe with { ExpertIntermediate = 32, Heads = 4, HeadDim = 8, Hidden = 32 };
        AssertReads(square with { Layout = TinyLayout.Paddle }, CheckpointLayout.Paddle);
        AssertReads(square with { Layout = TinyLayout.FusedRowsErnie }, CheckpointLayout.Split);
        AssertReads(square with { Layout = TinyLayout.FusedExperts }, CheckpointLayout.FusedExperts);
    }

    [Fact]
    public void OnlySquareMatrices_FollowThePrefix()
    {
        // Fused projections are never square, so the names are split ones under Baidu's prefix.
        var tiny = new TinyCheckpoint { Layers = 1, Hidden = 16, Heads = 2, KvHeads = 2, HeadDim = 8, Intermediate = 16 };
        AssertReads(tiny, CheckpointLayout.Split);
    }

    [Fact]
    public void UInt16_IsBFloat16()
    {
        using var folder = new TemporaryFolder();
        var tiny = Moe with { Layout = TinyLayout.Paddle };
        tiny.Write(folder.Path, editTensors: tensors =>
        {
            for (var i = 0; i < tensors.Count; i++) tensors[i] = tensors[i] with { ElementType = tensors[i].ElementType == "BF16" ? "U16" : tensors[i].ElementType };
        });
        AssertWeights(tiny, folder.Path);
    }

    [Fact]
    public void FilesThroughLinks_AreRead()
    {
        // The cache of Hugging Face holds links to files with hashed names.
        using var blobs = new TemporaryFolder();
        using var folder = new TemporaryFolder();
        (Moe with { Shards = 2 }).Write(blobs.Path);
        foreach (var file in Directory.EnumerateFiles(blobs.Path))
        {
            try { File.CreateSymbolicLink(folder.File(Path.GetFileName(file)), file); }
            catch (Exception e) when (e is UnauthorizedAccessException or IOException) { Assert.Skip("Links cannot be made here: " + e.Message); }
        }
        AssertWeights(Moe, folder.Path);
    }

    [Fact]
    public void AnyShape_ReadsAnyRows()
    {
        var shapes =
            from layout in Gen.Enum<TinyLayout>()
            from type in Gen.Enum<StoredType>()
            from heads in Gen.Int[1, 3]
            from perKv in Gen.Int[1, 3]
            from half in Gen.Int[1, 5]
            from hidden in Gen.Int[1, 40]
            from width in Gen.Int[1, 40]
            from experts in Gen.Int[0, 3]
            from shared in Gen.Int[0, 2]
            from tied in Gen.Bool
            select new TinyCheckpoint
            {
                Layout = layout, Type = type, Heads = heads * perKv, KvHeads = heads, HeadDim = 2 * half, Hidden = hidden, Intermediate = width, Experts = experts,
                ExpertsPerToken = 1, ExpertIntermediate = width, SharedExperts = shared, Vocabulary = 50 + hidden, Tied = tied,
            };
        shapes.Sample(tiny => AssertReads(tiny), iter: 60, threads: 1);
    }

    [Fact]
    public void Read_ChecksItsRange()
    {
        using var folder = new TemporaryFolder();
        Moe.Write(folder.Path);
        using var checkpoint = Checkpoint.Open(folder.Path);
        var tensor = checkpoint.Tensor(TensorNames.Query(0));
        Assert.Throws<ArgumentOutOfRangeException>(() => tensor.Read(-1, new float[tensor.Columns]));
        Assert.Throws<ArgumentOutOfRangeException>(() => tensor.Read(tensor.Rows, new float[tensor.Columns]));
        Assert.Throws<ArgumentException>(() => tensor.Read(0, new float[tensor.Columns + 1]));
        tensor.Read(tensor.Rows, []);
    }

    [Fact]
    public void Read_AfterDisposalThrows()
    {
        using var folder = new TemporaryFolder();
        Moe.Write(folder.Path);
        var checkpoint = Checkpoint.Open(folder.Path);
        var tensor = checkpoint.Tensor(TensorNames.Query(0));
        checkpoint.Dispose();
        Assert.Throws<ObjectDisposedException>(() => tensor.Read(0, new float[tensor.Count]));
    }

    [Fact]
    public void Read_OfAFileThatShrankThrows()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows does not let a mapped file shrink.");
        using var folder = new TemporaryFolder();
        Moe.Write(folder.Path);
        using var checkpoint = Checkpoint.Open(folder.Path);
        var tensor = checkpoint.Tensor(TensorNames.Head);
        // Another process writes regardless of this one's sharing mode.
        using (var process = System.Diagnostics.Process.Start("truncate", ["-s", "100", folder.File("model.safetensors")])) process.WaitForExit();
        Assert.Throws<InvalidDataException>(() => tensor.Read(0, new float[tensor.Count]));
    }

    [Fact]
    public void Read_IsThreadSafe()
    {
        using var folder = new TemporaryFolder();
        var tiny = Moe with { Layout = TinyLayout.Paddle };
        tiny.Write(folder.Path);
        using var checkpoint = Checkpoint.Open(folder.Path);
        var tensor = checkpoint.Tensor(TensorNames.Key(0));
        var expected = tiny.Stored(tensor.Name, tensor.Rows, tensor.Columns);
        Parallel.For(0, 200, _ =>
        {
            var values = new float[tensor.Count];
            tensor.Read(0, values);
            Assert.True(expected.AsSpan().SequenceEqual(values));
        });
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    [InlineData(float.NegativeInfinity)]
    public void ContainsNonFinite_SeesEveryPlace(float value)
    {
        var values = new float[71];
        values[3] = float.MaxValue;
        values[4] = -float.Epsilon;
        Assert.False(CheckpointTensor.ContainsNonFinite(values));
        Assert.False(CheckpointTensor.ContainsNonFinite([]));
        for (var i = 0; i < values.Length; i++)
        {
            var copy = values.ToArray();
            copy[i] = value;
            Assert.True(CheckpointTensor.ContainsNonFinite(copy), $"{i}");
        }
    }

    private static void AssertReads(TinyCheckpoint tiny, CheckpointLayout? layout = null)
    {
        using var folder = new TemporaryFolder();
        tiny.Write(folder.Path);
        AssertWeights(tiny, folder.Path, layout);
    }

    private static void AssertWeights(TinyCheckpoint tiny, string folder, CheckpointLayout? layout = null)
    {
        using var checkpoint = Checkpoint.Open(folder);
        if (layout is not null) Assert.Equal(layout, checkpoint.Layout);
        Assert.Equal(ExpectedNames(tiny).Order(StringComparer.Ordinal), checkpoint.TensorKeys.Order(StringComparer.Ordinal));
        foreach (var name in checkpoint.TensorKeys)
        {
            var tensor = checkpoint.Tensor(name);
            var expected = tiny.Stored(tensor.Name, tensor.Rows, tensor.Columns);
            var actual = new float[tensor.Count];
            var step = Math.Max(1, tensor.Rows / 3);
            for (long row = 0; row < tensor.Rows; row += step)
            {
                var rows = Math.Min(step, tensor.Rows - row);
                tensor.Read(row, actual.AsSpan((int)(row * tensor.Columns), (int)(rows * tensor.Columns)));
            }
            Assert.True(expected.AsSpan().SequenceEqual(actual), $"{name} of {tiny}");
        }
    }

    private static IEnumerable<string> ExpectedNames(TinyCheckpoint tiny)
    {
        yield return TensorNames.Embedding;
        yield return TensorNames.Head;
        yield return TensorNames.FinalNorm;
        for (var i = 0; i < tiny.Layers; i++)
        {
            foreach (var name in new[] { TensorNames.InputNorm(i), TensorNames.PostAttentionNorm(i), TensorNames.Query(i), TensorNames.Key(i), TensorNames.Value(i), TensorNames.AttentionOutput(i) }) yield return name;
            if (!tiny.IsMoe(i))
            {
                foreach (var name in new[] { TensorNames.Gate(i), TensorNames.Up(i), TensorNames.Down(i) }) yield return name;
                continue;
            }
            yield return TensorNames.Router(i);
            yield return TensorNames.CorrectionBias(i);
            if (tiny.SharedExperts > 0)
            {
                foreach (var name in new[] { TensorNames.SharedGate(i), TensorNames.SharedUp(i), TensorNames.SharedDown(i) }) yield return name;
            }
            for (var e = 0; e < tiny.Experts; e++)
            {
                foreach (var name in new[] { TensorNames.ExpertGate(i, e), TensorNames.ExpertUp(i, e), TensorNames.ExpertDown(i, e) }) yield return name;
            }
        }
    }
}
