using System.Text.Json;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Support;

/// <summary>One case of <c>goldens/plas/plas.json</c>: inputs by its recipe, kept blocks, outputs.</summary>
internal sealed class PlasGolden
{
    private readonly JsonElement _case;
    private readonly int _tokens, _qSegment, _kSegment;
    private readonly double _qAmplitude, _kAmplitude, _vAmplitude, _qNoise, _kNoise, _own;
    private readonly bool _rope, _rounds;
    private readonly double _theta;
    private readonly GoldenRandom _q, _qHead, _qGroup, _k, _kSegments, _v, _probe;

    public PlasGolden(JsonElement golden)
    {
        _case = golden;
        var p = golden.GetProperty("parameters");
        int Int(string name) => p.GetProperty(name).GetInt32();
        double Number(string name) => p.GetProperty(name).GetDouble();
        Name = p.GetProperty("name").GetString()!;
        (HeadDim, KvHeads, Group) = (Int("head_dim"), Int("kv_heads"), Int("group"));
        Chunks = Golden.Ints(p.GetProperty("chunks"));
        DecodeSteps = Int("decode_steps");
        _tokens = Chunks.Sum() + DecodeSteps;
        Limits = new SparseLimits(Int("encoder_top_k_left"), Int("encoder_top_k_right"), Int("encoder_limit"), Int("decoder_top_k_left"), Int("decoder_top_k_right"), Int("decoder_limit"));
        (_qSegment, _kSegment) = (Int("q_seg"), Int("k_seg"));
        (_qAmplitude, _kAmplitude, _vAmplitude) = (Number("q_amp"), Number("k_amp"), Number("v_amp"));
        (_qNoise, _kNoise, _own) = (Number("q_noise"), Number("k_noise"), Number("own"));
        (_rope, _theta) = (p.GetProperty("rope").GetBoolean(), Number("rope_theta"));
        _rounds = p.GetProperty("rounding").GetString() == "bf16";
        var seed = Int("seed");
        GoldenRandom At(string what) => new($"plas/{Name}/{seed}/{what}");
        (_q, _qHead, _qGroup, _k, _kSegments, _v, _probe) = (At("q.noise"), At("q.head"), At("q.group"), At("k.noise"), At("k.segment"), At("v"), At("probe"));
        if (!p.GetProperty("gate").GetBoolean()) return;
        var gate = At("gate");
        Gate = [.. Enumerable.Range(0, KvHeads * KvBlockLayout.BlockSize * HeadDim).Select(i => Rounded(gate.Value(i) / 16 + 1.0 / 128))];
    }

    public string Name { get; }
    public int HeadDim { get; }
    public int KvHeads { get; }
    public int Group { get; }
    public int Heads => KvHeads * Group;
    public int[] Chunks { get; }
    public int DecodeSteps { get; }
    public SparseLimits Limits { get; }
    public float[]? Gate { get; }
    /// <summary>Whether a bfloat16 cache holds the rotated keys exactly.</summary>
    public bool IsExactInBFloat16 => _rounds && !_rope;

    public static PlasGolden Load(string name) => new(Golden.Open(SharedData.Path("goldens", "plas", "plas.json")).RootElement.GetProperty("cases").EnumerateArray()
        .Single(golden => golden.GetProperty("parameters").GetProperty("name").GetString() == name));

    public static string[] Names() => [.. Golden.Open(SharedData.Path("goldens", "plas", "plas.json")).RootElement.GetProperty("cases").EnumerateArray()
        .Select(golden => golden.GetProperty("parameters").GetProperty("name").GetString()!)];

    public AttentionCase NewCase(KvElementType elementType) => new(1, Heads, KvHeads, HeadDim, elementType, _tokens)
    {
        Tokens = (_, position, qkv) => Token(position, qkv),
        // Without rotation every angle is zero.
        Rope = new RopeTable(HeadDim, _theta, _rope ? 1 : double.PositiveInfinity, _tokens),
        Gate = Gate,
        Limits = { [0] = Limits },
    };

    /// <summary>Runs the case; compares kept blocks, rows and checksums.</summary>
    /// <returns>How many lists were compared, and how many of them were the file's but for blocks that it calls uncertain.</returns>
    public (int Lists, int Uncertain) Check(CpuKernels kernels, IParallelRunner runner, KvElementType elementType, double tolerance)
    {
        using var test = NewCase(elementType);
        int lists = 0, uncertain = 0, first = 0;
        foreach (var chunk in _case.GetProperty("prefill").EnumerateArray())
        {
            var count = chunk.GetProperty("tokens").GetInt32();
            var output = test.Step(kernels, runner, 0, count);
            var selections = test.Selections.Items.ToDictionary(selection => (selection.FirstToken, selection.Head), selection => selection.Blocks);
            // (pack, head) whose output another choice of uncertain blocks changes.
            var others = new HashSet<(int Token, int Head)>();
            foreach (var pack in chunk.GetProperty("packs").EnumerateArray())
            {
                var start = pack.GetProperty("first").GetInt32() - (pack.GetProperty("first").GetInt32() >= first ? first : 0);
                if (pack.TryGetProperty("dense", out var dense) && dense.GetBoolean())
                {
                    for (var h = 0; h < Heads; h++) Assert.False(selections.ContainsKey((start, h)), $"{Name}: pack at {first + start}, head {h} should be dense.");
                    continue;
                }
                for (var h = 0; h < Heads; h++, lists++)
                {
                    Assert.True(selections.Remove((start, h), out var kept), $"{Name}: pack at {first + start}, head {h} should be sparse.");
                    if (!Same(pack, h, kept!, $"{Name}: pack at {first + start}, head {h}")) continue;
                    uncertain++;
                    for (var t = start; t < start + pack.GetProperty("count").GetInt32(); t++) others.Add((t, h));
                }
            }
            Assert.Empty(selections);
            var rows = Golden.Ints(chunk.GetProperty("rows"));
            for (var i = 0; i < rows.Length; i++)
            {
                var expected = Golden.Floats(chunk.GetProperty("row_values")[i]);
                for (var h = 0; h < Heads; h++)
                {
                    if (others.Contains((rows[i], h))) continue;
                    TensorAssert.Near(expected.AsSpan(h * HeadDim, HeadDim), output.AsSpan((rows[i] * Heads + h) * HeadDim, HeadDim), tolerance, 0, $"{Name}: token {first + rows[i]}, head {h}");
                }
            }
            if (others.Count == 0) Checksum(chunk, output, tolerance);
            first += count;
        }
        foreach (var step in _case.GetProperty("decode").EnumerateArray())
        {
            var output = test.Step(kernels, runner, [(0, 1, SequenceFlags.Decode)]);
            var selections = test.Selections.Items;
            var what = $"{Name}: decode at {step.GetProperty("position").GetInt32()}";
            var others = new HashSet<int>();
            if (step.TryGetProperty("dense", out var dense) && dense.GetBoolean()) Assert.Empty(selections);
            else
            {
                Assert.Equal(KvHeads, selections.Count);
                for (var h = 0; h < KvHeads; h++, lists++)
                {
                    Assert.Equal(h, selections[h].Head);
                    if (Same(step, h, selections[h].Blocks, $"{what}, KV head {h}")) others.Add(h);
                }
                uncertain += others.Count;
            }
            if (step.TryGetProperty("values", out var values))
            {
                var expected = Golden.Floats(values);
                for (var h = 0; h < Heads; h++)
                {
                    if (!others.Contains(h / Group)) TensorAssert.Near(expected.AsSpan(h * HeadDim, HeadDim), output.AsSpan(h * HeadDim, HeadDim), tolerance, 0, $"{what}, head {h}");
                }
            }
            if (others.Count == 0) Checksum(step, output, tolerance);
        }
        return (lists, uncertain);
    }

    /// <returns>False where the lists are equal, true where they differ in uncertain blocks only.</returns>
    private static bool Same(JsonElement entry, int head, int[] actual, string what)
    {
        var expected = Blocks(entry.GetProperty("blocks")[head].GetString()!);
        if (expected.SequenceEqual(actual)) return false;
        int[] uncertain = entry.TryGetProperty("uncertain", out var lists) ? Blocks(lists[head].GetString()!) : [];
        var different = expected.Except(actual).Concat(actual.Except(expected)).Except(uncertain).ToArray();
        Assert.True(different.Length == 0, $"{what}: expected {string.Join(",", expected)}, was {string.Join(",", actual)}.");
        return true;
    }

    /// <summary>"0,3-7,11".</summary>
    private static int[] Blocks(string text) => [.. text.Split(',', StringSplitOptions.RemoveEmptyEntries).SelectMany(part =>
    {
        var ends = part.Split('-').Select(int.Parse).ToArray();
        return Enumerable.Range(ends[0], ends[^1] - ends[0] + 1);
    })];

    private void Checksum(JsonElement entry, float[] output, double tolerance)
    {
        var checksum = entry.GetProperty("checksum");
        double sum = 0, magnitude = 0, probe = 0;
        for (var i = 0; i < output.Length; i++)
        {
            sum += output[i];
            magnitude += Math.Abs((double)output[i]);
            probe += output[i] * _probe.Value(i);
        }
        var expected = checksum.GetProperty("sum_abs").GetDouble();
        Assert.Equal(expected, magnitude, tolerance * expected);
        Assert.Equal(checksum.GetProperty("sum").GetDouble(), sum, tolerance * expected);
        Assert.Equal(checksum.GetProperty("probe").GetDouble(), probe, tolerance * expected);
    }

    private void Token(int t, Span<float> qkv)
    {
        var (d, i) = (HeadDim, 0);
        for (var h = 0; h < Heads; h++)
        {
            for (var c = 0; c < d; c++)
            {
                var noise = _qNoise * _q.Value(((long)t * Heads + h) * d + c);
                var head = _own * _qHead.Value(((long)(t / _qSegment) * Heads + h) * d + c);
                qkv[i++] = Rounded(_qAmplitude * (noise + head + _qGroup.Value(((long)(t / _qSegment) * KvHeads + h / Group) * d + c)));
            }
        }
        for (var h = 0; h < KvHeads; h++)
        {
            for (var c = 0; c < d; c++) qkv[i++] = Rounded(_kAmplitude * (_kNoise * _k.Value(((long)t * KvHeads + h) * d + c) + _kSegments.Value(((long)(t / _kSegment) * KvHeads + h) * d + c)));
        }
        for (var h = 0; h < KvHeads; h++)
        {
            for (var c = 0; c < d; c++) qkv[i++] = Rounded(_vAmplitude * _v.Value(((long)t * KvHeads + h) * d + c));
        }
    }

    private float Rounded(double value) => _rounds ? BFloat16.ToSingle(BFloat16.FromSingle((float)value)) : (float)value;
}
