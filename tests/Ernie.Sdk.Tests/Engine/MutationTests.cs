using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>
/// Mistakes that an engine for this architecture can make, planted one at a time: golden data that cannot see a mistake is decoration. Each must move some logit by several tolerances, most move it by thousands.
/// </summary>
public sealed class MutationTests(ITestOutputHelper output)
{
    /// <summary>What every mutated engine gets: right weights, and right kernels.</summary>
    private delegate (IWeightSource Weights, CpuKernels Kernels) Mutation(IWeightSource weights, CpuKernels kernels);

    private static readonly Dictionary<string, Mutation> s_mutations = new()
    {
        ["correction bias ignored"] = Edit("e_score_correction_bias", static (_, values) => Array.Clear(values)),
        ["correction bias in the weights too"] = Weigh(static (p, bias) => Normalised([.. p.Zip(bias, static (a, b) => a + b)])),
        ["no renormalisation"] = Weigh(static (p, _) => p),
        ["equal weights"] = Weigh(static (p, _) => [.. p.Select(x => 1.0 / p.Length)]),
        ["gate and up swapped, experts"] = Rename(static name => Swap(name, ".mlp.experts.")),
        ["gate and up swapped, shared expert"] = Rename(static name => Swap(name, ".mlp.shared_experts.")),
        ["gate and up swapped, dense layers"] = Rename(static name => Swap(name, ".mlp.")),
        ["experts numbered from 1"] = static (w, k) => (new MutatedWeights(w) { Rename = name => NextExpert(name, w.Config.ExpertCount) }, k),
        ["rotation in half-split order"] = static (w, k) => (new MutatedWeights(w) { Edit = (tensor, values) => HalfSplit(tensor, values, w.Config.HeadDim) }, k),
        ["rotation with base 10000"] = Config(static config => config with { RopeTheta = 10000 }),
        ["heads grouped by h mod Hkv"] = static (w, k) => (new MutatedWeights(w) { Edit = (tensor, values) => InterleaveHeads(tensor, values, w.Config) }, k),
        ["keys and values swapped"] = Rename(static name => name.Contains("k_proj") ? name.Replace("k_proj", "v_proj") : name.Replace("v_proj", "k_proj")),
        ["shared expert dropped"] = Config(static config => config with { SharedExpertCount = 0 }),
        ["first MoE layer taken for dense"] = FirstMoeLayerIsDense,
        ["last dense layer taken for MoE"] = LastDenseLayerIsMoe,
        ["input norm's weight ignored"] = Edit("input_layernorm.weight", static (_, values) => Array.Fill(values, 1)),
        ["post-attention norm's weight ignored"] = Edit("post_attention_layernorm.weight", static (_, values) => Array.Fill(values, 1)),
        ["final norm's weight ignored"] = Edit("model.norm.weight", static (_, values) => Array.Fill(values, 1)),
        ["norms' eps 1e-6"] = Config(static config => config with { RmsNormEps = 1e-6f }),
        ["head taken from the embedding"] = Config(static config => config with { TieWordEmbeddings = true }),
        ["embedding taken from the head"] = Rename(static name => name == TensorNames.Embedding ? TensorNames.Head : name),
    };

    private static readonly string[] s_untied = ["head taken from the embedding", "embedding taken from the head"];

    /// <summary>A model with one of the mistakes in it.</summary>
    internal static LoadedRunner Load(string mutation, IWeightSource weights, int blocks)
    {
        var (mutated, kernels) = s_mutations[mutation](weights, KernelRegistry.Choose());
        return new LoadedRunner(mutated, kernels: kernels, blocks: blocks);
    }

    [Fact]
    public void MixtureOfExperts_EveryMutationIsNoticed() =>
        NoticesAll("goldens/transformers/moe-21b-like", [.. s_mutations.Keys.Except(s_untied)]);

    [Fact]
    public void UntiedMixture_EveryMutationIsNoticed() =>
        // One KV head: any grouping of heads is the same. No shared expert.
        NoticesAll("goldens/transformers/moe-300b-like", [.. s_mutations.Keys.Where(static name => !name.Contains("shared") && !name.Contains("grouped"))]);

    [Fact]
    public void DenseModel_EveryMutationIsNoticed() =>
        NoticesAll("goldens/transformers/dense-0.3b-like", ["gate and up swapped, dense layers", "rotation in half-split order", "rotation with base 10000", "heads grouped by h mod Hkv", "keys and values swapped",
            "input norm's weight ignored", "post-attention norm's weight ignored", "final norm's weight ignored", "norms' eps 1e-6"]);

    [Fact]
    public void ShippedModel_EveryMutationIsNoticed() =>
        // Trained activations are larger than random ones: eps, the smallest of these mistakes, moves logits by five tolerances only.
        Notices(TinyModel.Checkpoint, Path.Combine(SharedData.RepositoryRoot, "tests", "Ernie.Sdk.Tests", "Data", "tiny-logits.json"), GoldenComparison.TinyTolerance, 4, 3, [.. s_mutations.Keys.Except(s_untied)]);

    private void NoticesAll(string golden, IReadOnlyList<string> mutations) =>
        Notices(SharedData.Path(golden), SharedData.Path(golden, "expected.json"), GoldenComparison.Tolerance, 10, int.MaxValue, mutations);

    private void Notices(string checkpoint, string expected, float tolerance, int factor, int sequences, IReadOnlyList<string> mutations)
    {
        using var golden = Golden.Open(expected);
        using var weights = Checkpoint.Open(checkpoint);
        var kernels = KernelRegistry.Choose();
        float Worst(Mutation mutation)
        {
            var (mutated, wrong) = mutation(weights, kernels);
            using var model = new LoadedRunner(mutated, kernels: wrong, blocks: 8);
            return GoldenComparison.WorstLogit(model, golden, sequences);
        }

        // The control goes through the same wrappers, with nothing changed.
        var control = Worst(static (w, k) => (new MutatedWeights(w), new MisweightedExperts(k, static (p, _) => Normalised(p))));
        output.WriteLine($"{Path.GetFileName(checkpoint)}: tolerance {tolerance:E1}, control {control:E1}");
        Assert.InRange(control, 0, tolerance);
        var missed = new List<string>();
        foreach (var name in mutations)
        {
            var worst = Worst(s_mutations[name]);
            output.WriteLine($"  {name,-40} {worst,10:G3}  {worst / tolerance,10:N0} tolerances");
            if (worst < factor * tolerance) missed.Add(name);
        }
        Assert.Empty(missed);
    }

    private static Mutation Edit(string suffix, Action<CheckpointTensor, float[]> edit) => (weights, kernels) => (new MutatedWeights(weights)
    {
        Edit = (tensor, values) =>
        {
            if (tensor.Name.EndsWith(suffix, StringComparison.Ordinal)) edit(tensor, values);
        },
    }, kernels);

    private static Mutation Rename(Func<string, string> rename) => (weights, kernels) => (new MutatedWeights(weights) { Rename = rename }, kernels);

    private static Mutation Config(Func<ErnieConfig, ErnieConfig> change) => (weights, kernels) => (new MutatedWeights(weights) { Config = change(weights.Config) }, kernels);

    private static Mutation Weigh(Func<double[], double[], double[]> weigh) => (weights, kernels) => (weights, new MisweightedExperts(kernels, weigh));

    private static double[] Normalised(double[] values) => [.. values.Select(value => value / values.Sum())];

    private static string Swap(string name, string part)
    {
        // ".mlp." alone means a dense layer's.
        if (!name.Contains(part) || (part == ".mlp." && name.Contains("experts"))) return name;
        return name.Contains("gate_proj") ? name.Replace("gate_proj", "up_proj") : name.Replace("up_proj", "gate_proj");
    }

    private static string NextExpert(string name, int experts)
    {
        const string stem = ".mlp.experts.";
        var at = name.IndexOf(stem, StringComparison.Ordinal);
        if (at < 0) return name;
        var begin = at + stem.Length;
        var end = name.IndexOf('.', begin);
        var expert = int.Parse(name.AsSpan(begin, end - begin), System.Globalization.CultureInfo.InvariantCulture);
        return $"{name[..begin]}{(expert + 1) % experts}{name[end..]}";
    }

    /// <summary>Turning rows i and i + d/2 together is turning rows 2i and 2i + 1 of reordered heads.</summary>
    private static void HalfSplit(CheckpointTensor tensor, float[] values, int headDim)
    {
        if (!tensor.Name.EndsWith("q_proj.weight", StringComparison.Ordinal) && !tensor.Name.EndsWith("k_proj.weight", StringComparison.Ordinal)) return;
        PermuteRows(values, (int)tensor.Columns, row => row / headDim * headDim + row % headDim / 2 + row % 2 * (headDim / 2));
    }

    /// <summary>Puts query head h where the kernels read KV head h mod Hkv, and takes its output from there.</summary>
    private static void InterleaveHeads(CheckpointTensor tensor, float[] values, ErnieConfig config)
    {
        var group = config.HeadCount / config.KvHeadCount;
        int Source(int channel)
        {
            var (kvHead, member) = Math.DivRem(channel / config.HeadDim, group);
            return (member * config.KvHeadCount + kvHead) * config.HeadDim + channel % config.HeadDim;
        }
        if (tensor.Name.EndsWith("q_proj.weight", StringComparison.Ordinal)) PermuteRows(values, (int)tensor.Columns, Source);
        if (!tensor.Name.EndsWith("o_proj.weight", StringComparison.Ordinal)) return;
        var original = (float[])values.Clone();
        for (var i = 0; i < values.Length; i++)
        {
            var (row, column) = Math.DivRem(i, (int)tensor.Columns);
            values[i] = original[row * (int)tensor.Columns + Source(column)];
        }
    }

    private static void PermuteRows(float[] values, int columns, Func<int, int> source)
    {
        var original = (float[])values.Clone();
        for (var row = 0; row < values.Length / columns; row++) original.AsSpan(source(row) * columns, columns).CopyTo(values.AsSpan(row * columns));
    }

    /// <summary>The layer runs as a dense one, with the feed-forward weights of the dense layer before it.</summary>
    private static (IWeightSource, CpuKernels) FirstMoeLayerIsDense(IWeightSource weights, CpuKernels kernels)
    {
        var first = weights.Config.MoeLayers.ToList().IndexOf(true);
        return (new MutatedWeights(weights) { Config = WithMoe(weights.Config, first, false), Rename = name => name.Replace($"layers.{first}.mlp.", $"layers.{first - 1}.mlp.") }, kernels);
    }

    private static (IWeightSource, CpuKernels) LastDenseLayerIsMoe(IWeightSource weights, CpuKernels kernels)
    {
        var last = weights.Config.MoeLayers.ToList().LastIndexOf(false);
        return (new MutatedWeights(weights) { Config = WithMoe(weights.Config, last, true), Rename = name => name.Replace($"layers.{last}.mlp.", $"layers.{last + 1}.mlp.") }, kernels);
    }

    private static ErnieConfig WithMoe(ErnieConfig config, int layer, bool moe)
    {
        bool[] layers = [.. config.MoeLayers];
        layers[layer] = moe;
        return config with { MoeLayers = layers };
    }
}
