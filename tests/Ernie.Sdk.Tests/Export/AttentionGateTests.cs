using Ernie.Cli;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Tests.Cli;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Export;

/// <summary>Learned gates of sparse attention: from their file into the graph, and to the kernels.</summary>
public sealed class AttentionGateTests : IDisposable
{
    private const int Layers = 5, KvHeads = 2, HeadDim = 64;
    private readonly TemporaryFolder _folder = new();

    public AttentionGateTests()
    {
        Directory.CreateDirectory(Checkpoint);
        foreach (var file in Directory.EnumerateFiles(TinyModel.Checkpoint)) File.Copy(file, Path.Combine(Checkpoint, Path.GetFileName(file)));
    }

    private string Checkpoint => _folder.File("checkpoint");

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Gates_AreExportedAndReachTheirLayers()
    {
        WriteGates([.. Enumerable.Range(0, Layers - 1).Select(static layer => Gate(layer))]);
        var model = _folder.File("model");
        (await CommandRun.Async("export", Checkpoint, model)).Succeeded();
        (await CommandRun.Async("verify", model)).Succeeded();
        foreach (var folder in new[] { Checkpoint, model })
            Assert.Contains("Gates           learned, in 4 layers", (await CommandRun.Async("inspect", folder)).Succeeded().Out, StringComparison.Ordinal);
        var manifest = ModelManifest.Read(model);
        Assert.True(manifest.Config.HasAttentionGates);
        Assert.Equal(manifest.Tensors.Sum(static tensor => tensor.Bytes), MemoryPlan.For(manifest.Config, manifest.Formats, KvElementType.BFloat16, 1).WeightBytes);
        Assert.DoesNotContain(manifest.Files, static file => file.Name == AttentionGates.FileName);

        var seen = new List<(float[]? Gate, bool DensePrefill)>();
        using var runner = new ModelRunner(model, manifest, KvElementType.Float32, 8, 2, new Spy(KernelRegistry.Choose(), seen));
        var batch = new StepBatch();
        batch.Add([5, 6, 7], 0, [runner.Cache.Allocate()], SequenceFlags.None, SparseLimits.Dense, 1);
        runner.Run(batch);
        Assert.Equal(Layers, seen.Count);
        for (var layer = 0; layer < Layers - 1; layer++)
        {
            Assert.False(seen[layer].DensePrefill);
            Assert.Equal(Values(layer).Select(static x => EncodedTensor.Round(StoredType.BFloat16, x)), seen[layer].Gate);
        }
        Assert.Equal((null, true), seen[^1]);
    }

    [Fact]
    public async Task WithoutTheFile_EveryLayerUsesMeans()
    {
        var seen = new List<(float[]? Gate, bool DensePrefill)>();
        await using var model = await TinyModel.LoadAsync(options => options.Kernels = new Spy(KernelRegistry.Choose(), seen));
        await foreach (var _ in model.GenerateAsync([5, 6], new ErnieGenerationOptions { MaxTokens = 1 }, TestContext.Current.CancellationToken))
        {
        }
        Assert.Equal(Layers, seen.Count);
        Assert.All(seen, static layer => Assert.Equal((null, false), layer));
    }

    [Fact]
    public void AFileOfAnotherModel_IsRefused()
    {
        EncodedTensor[] good = [.. Enumerable.Range(0, Layers - 1).Select(static layer => Gate(layer))];
        Refused(good[..^1], "lacks gates: ernie.layers.3.self_attn.attn_gate.weight.");
        Refused([.. good, Gate(Layers - 1)], "no gates of this model: ernie.layers.4.self_attn.attn_gate.weight BF16 [2, 128, 64]");
        Refused([.. good, good[0] with { Name = "model.layers.0.self_attn.attn_gate.weight" }], "the second of its layer");
        Refused([.. good, good[0] with { Name = "ernie.layers.0.self_attn.other.weight" }], "no gates of this model: ernie.layers.0.self_attn.other.weight");
        Refused([good[0] with { Shape = [KvHeads * 2, 128, HeadDim / 2] }, .. good[1..]], "another shape than [kv heads, 128, head dim] = [2, 128, 64]");
        Refused([good[0] with { ElementType = "I16" }, .. good[1..]], "an element type that is not read: ernie.layers.0");
    }

    private void Refused(EncodedTensor[] gates, string message)
    {
        WriteGates(gates);
        var error = Assert.Throws<InvalidDataException>(() => Sdk.Checkpoints.Checkpoint.Open(Checkpoint).Dispose());
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
        Assert.Contains(AttentionGates.FileName, error.Message, StringComparison.Ordinal);
        Assert.Contains("or remove it", error.Message, StringComparison.Ordinal);
    }

    private void WriteGates(EncodedTensor[] gates) => SafetensorsWriter.Write(Path.Combine(Checkpoint, AttentionGates.FileName), gates);

    private static float[] Values(int layer) => RandomTensor.Floats(new Random(layer), KvHeads * 128 * HeadDim, 1);

    private static EncodedTensor Gate(int layer) => EncodedTensor.Of($"ernie.layers.{layer}.self_attn.attn_gate.weight", StoredType.BFloat16, [KvHeads, 128, HeadDim], Values(layer));

    private sealed unsafe class Spy(CpuKernels inner, List<(float[]?, bool)> seen) : CpuKernels
    {
        public override string Name => inner.Name;
        public override bool IsSupported => true;

        public override void AddRmsNorm(in AddRmsNormArguments arguments, in KernelContext context) => inner.AddRmsNorm(arguments, context);
        public override void Linear(in LinearArguments arguments, in KernelContext context) => inner.Linear(arguments, context);
        public override void Experts(in ExpertsArguments arguments, in KernelContext context) => inner.Experts(arguments, context);

        public override void Attention(in AttentionArguments arguments, in KernelContext context)
        {
            seen.Add((arguments.Gate == null ? null : new ReadOnlySpan<float>(arguments.Gate, KvHeads * 128 * HeadDim).ToArray(), arguments.DensePrefill));
            inner.Attention(arguments, context);
        }
    }
}
