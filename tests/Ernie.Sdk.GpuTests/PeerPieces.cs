using System.Globalization;
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
    private static readonly WeightFormat s_format = WeightFormat.Int4(128);
    private static readonly int[] s_tokens = [1, 4, 16, 64, 512, 2048], s_headTokens = [1, 16, 64], s_tinyTokens = [1, 20];
    /// <summary>ONNX Runtime's faster kernels for float16, which it has switched off.</summary>
    private static readonly (string, string) s_faster = ("ep.cuda.fpa_intb_gemm", "1");

    public static IReadOnlyList<Piece> All { get; } =
    [
        new("bench/peer-onnxruntime", "ONNX Runtime's MatMulNBits and QMoE in int4 beside our kernels", OnnxRuntime),
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

    private static string Microseconds(double seconds, double launch) =>
        string.Create(CultureInfo.InvariantCulture, $"{seconds * 1e6:F1} µs{(launch > 0.9 * seconds ? $" (the CPU's {launch * 1e6:F1} to ask for it)" : "")}");
}
