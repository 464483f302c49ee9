using System.Globalization;
using System.Text.Json.Nodes;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.GpuTests.Peers;
using Ernie.Sdk.GpuTests.Speed;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.GpuTests;

/// <summary>The kernels beside those of others, on the same card in the same process, at the sizes of 21B-A3B.</summary>
internal static class PeerPieces
{
    private const string CopyName = "copy on the device";
    private static readonly WeightFormat s_format = WeightFormat.Int4(128);
    private static readonly int[] s_tokens = [1, 4, 16, 64, 512, 2048], s_headTokens = [1, 16, 64], s_tinyTokens = [1, 20];
    /// <summary>ONNX Runtime's faster kernels for float16, which it has switched off.</summary>
    private static readonly (string, string) s_faster = ("ep.cuda.fpa_intb_gemm", "1");

    public static IReadOnlyList<Piece> All { get; } =
    [
        new("bench/peer-onnxruntime", "ONNX Runtime's MatMulNBits and QMoE in int4 beside our kernels", OnnxRuntime),
        new("bench/peer-pytorch", "PyTorch's products, copies and attention in bfloat16 beside our kernels", PyTorch) { DriverIsEnough = true },
    ];

    private static Task OnnxRuntime(PieceRun run)
    {
        var config = SpeedPieces.Shape(run);
        using var context = run.Installation.Gpu().Retain();
        using var place = new PeerPlace(run.Installation, context, run.IsTiny);
        if (!place.IsGpu) run.Skip("ONNX Runtime on the GPU", "It has no CUDA provider here: its operators run on the CPU, and the ratios say nothing.");
        var runner = new TaskRunner(Environment.ProcessorCount, run.CancellationToken);
        Linear(run, place, runner, "q|k|v", config.QkvSize, config.HiddenSize, run.IsTiny ? s_tinyTokens : s_tokens);
        Experts(run, place, runner, config);
        if (!run.IsTiny) Linear(run, place, runner, "head", config.VocabSize, config.HiddenSize, s_headTokens);
        return Task.CompletedTask;
    }

    private static void Linear(PieceRun run, PeerPlace place, TaskRunner runner, string name, int rows, int columns, int[] counts)
    {
        using var ours = new LinearSpeed(place.Context, s_format, rows, columns, run.IsTiny);
        using var plain = Peer(run, $"MatMulNBits, {name}", () => new LinearPeer(place, s_format, rows, columns, run.IsTiny, runner));
        using var faster = Peer(run, $"MatMulNBits with fpa_intb_gemm, {name}", () => new LinearPeer(place, s_format, rows, columns, run.IsTiny, runner, s_faster));
        foreach (var tokens in counts)
        {
            var (seconds, launch, _, _) = ours.Measure(tokens);
            Against(run, $"{s_format} {name}, {tokens} tokens", tokens, (seconds, launch), [("MatMulNBits", plain), ("with fpa_intb_gemm", faster)]);
        }
    }

    private static void Experts(PieceRun run, PeerPlace place, TaskRunner runner, ErnieConfig config)
    {
        using var ours = new ExpertsSpeed(place.Context, config, s_format, run.IsTiny);
        using var peer = Peer(run, "QMoE", () => new ExpertsPeer(place, s_format, config, run.IsTiny, runner));
        foreach (var tokens in run.IsTiny ? s_tinyTokens : s_tokens)
        {
            var result = ours.Measure(tokens);
            Against(run, $"{s_format} experts, {tokens} tokens", tokens, (result.Seconds, result.LaunchSeconds), [("QMoE", peer)]);
        }
    }

    /// <summary>Null where it does not start, which is reported.</summary>
    private static OrtPeer? Peer(PieceRun run, string name, Func<OrtPeer> create)
    {
        run.CancellationToken.ThrowIfCancellationRequested();
        try
        {
            return create();
        }
        catch (OnnxRuntimeException e)
        {
            run.Skip(name, $"ONNX Runtime refuses it: {e.Message.ReplaceLineEndings(" ")}");
            return null;
        }
    }

    /// <summary>One row: how many times as fast as the fastest of its peers that compute what they should.</summary>
    private static void Against(PieceRun run, string name, int tokens, (double Seconds, double LaunchSeconds) ours, (string Name, OrtPeer? Peer)[] peers)
    {
        var (best, notes, figures) = (double.PositiveInfinity, new List<string>(), new List<(string, double)> { ("oursMicroseconds", ours.Seconds * 1e6) });
        foreach (var (peerName, peer) in peers)
        {
            if (peer is null) continue;
            run.CancellationToken.ThrowIfCancellationRequested();
            using var call = peer.Of(tokens);
            // What computes something else may be as fast as it likes.
            if (!run.Check($"{name}: {peerName} against the reference", findings => peer.Check(call, findings))) continue;
            var (seconds, launch) = peer.Measure(call);
            best = Math.Min(best, seconds);
            notes.Add($"{peerName} {Microseconds(seconds, launch)}");
            figures.Add((peerName + " microseconds", seconds * 1e6));
        }
        if (notes.Count == 0) run.Skip(name, "No peer computes it.");
        else run.Measured(name, best / ours.Seconds, "times as fast", note: $"ours {Microseconds(ours.Seconds, ours.LaunchSeconds)}; {string.Join("; ", notes)}", figures: [.. figures]);
    }

    /// <summary>PyTorch first: it has ended, with its memory, when ours are measured.</summary>
    private static async Task PyTorch(PieceRun run)
    {
        var config = SpeedPieces.Shape(run);
        var tokens = run.IsTiny ? s_tinyTokens : s_tokens;
        (int Sequences, int Depth)[] decodes = run.IsTiny ? [(2, 260)] : [(1, 4096), (16, 4096), (1, 131_072)];
        (int Tokens, int Depth)[] prefills = run.IsTiny ? [(130, 260)] : [(2048, 2048), (2048, 32_768), (2048, 131_072)];
        static string LinearName(int tokens) => $"bf16 q|k|v, {tokens} tokens";
        static string DecodeName((int Sequences, int Depth) decode) => $"bf16 decode, {decode.Sequences} × {decode.Depth}, dense";
        static string PrefillName((int Tokens, int Depth) prefill) => $"bf16 last {prefill.Tokens} of {prefill.Depth}, dense";
        JsonObject Attention(string name, int sequences, int tokens, int depth) => new()
        {
            ["name"] = name, ["kind"] = "attention", ["sequences"] = sequences, ["tokens"] = tokens, ["depth"] = depth, ["heads"] = config.HeadCount, ["kvHeads"] = config.KvHeadCount, ["headDim"] = config.HeadDim,
        };
        JsonObject[] plan =
        [
            new() { ["name"] = CopyName, ["kind"] = "copy", ["bytes"] = run.IsTiny ? 1 << 16 : 2L << 30 },
            .. tokens.Select(count => new JsonObject { ["name"] = LinearName(count), ["kind"] = "matmul", ["tokens"] = count, ["rows"] = config.QkvSize, ["columns"] = config.HiddenSize }),
            .. decodes.Select(decode => Attention(DecodeName(decode), decode.Sequences, 1, decode.Depth)),
            .. prefills.Select(prefill => Attention(PrefillName(prefill), 1, prefill.Tokens, prefill.Depth)),
        ];
        var torch = await TorchPeer.RunAsync(run.Options.Python, plan, run.CancellationToken).ConfigureAwait(false);
        if (torch.Absent is not null || torch.Version is null)
        {
            run.Skip("(the piece)", $"PyTorch is not there: {torch.Absent ?? torch.Problem ?? $"{run.Options.Python} said nothing."}");
            return;
        }
        if (torch.Problem is not null) run.Skip("(some of PyTorch)", torch.Problem);
        void Row(string name, Func<(double Seconds, double LaunchSeconds)> measure)
        {
            run.CancellationToken.ThrowIfCancellationRequested();
            if (!torch.Seconds.TryGetValue(name, out var theirs))
            {
                run.Skip(name, torch.Skipped.GetValueOrDefault(name, "PyTorch came to an end before."));
                return;
            }
            var (seconds, launch) = measure();
            run.Measured(name, theirs / seconds, "times as fast", note: $"ours {Microseconds(seconds, launch)}; {torch.Version}: {Microseconds(theirs, 0)}", figures: [("oursMicroseconds", seconds * 1e6), ("PyTorch microseconds", theirs * 1e6)]);
        }
        using var context = run.Installation.Gpu().Retain();
        using (var probes = new CardProbes(context, run.IsTiny)) Row(CopyName, () => (probes.Bytes / probes.CopyRate(), 0));
        using (var layer = new LinearSpeed(context, WeightFormat.BFloat16, config.QkvSize, config.HiddenSize, run.IsTiny))
        {
            foreach (var count in tokens)
            {
                Row(LinearName(count), () =>
                {
                    var (seconds, launch, _, _) = layer.Measure(count);
                    return (seconds, launch);
                });
            }
        }
        foreach (var decode in decodes)
        {
            Row(DecodeName(decode), () =>
            {
                using var layer = new AttentionSpeed(context, config, KvElementType.BFloat16, decode.Depth, decode.Sequences, run.IsTiny);
                var result = layer.Decode(SparseLimits.Dense);
                return (result.Seconds, result.LaunchSeconds);
            });
        }
        foreach (var prefill in prefills)
        {
            Row(PrefillName(prefill), () =>
            {
                using var layer = new AttentionSpeed(context, config, KvElementType.BFloat16, prefill.Depth, 1, run.IsTiny);
                var result = layer.Prefill(prefill.Tokens, SparseLimits.Dense);
                return (result.Seconds, result.LaunchSeconds);
            });
        }
    }

    private static string Microseconds(double seconds, double launch) =>
        string.Create(CultureInfo.InvariantCulture, $"{seconds * 1e6:F1} µs{(launch > 0.9 * seconds ? $" (the CPU's {launch * 1e6:F1} to ask for it)" : "")}");
}
