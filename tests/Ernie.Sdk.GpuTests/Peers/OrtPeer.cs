using Ernie.Cli.Measuring.Layers;
using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.GpuTests.Peers;

/// <summary>Nodes of one of ONNX Runtime's operators over float16. A run asks for all of them, one after another, so that no cache holds what the next one reads and little of the time is the session's.</summary>
internal abstract class OrtPeer(PeerPlace place) : IDisposable
{
    /// <summary>Of the largest output. Activations, sums of parts and outputs are float16.</summary>
    protected const double Tolerance = 0.02;
    private readonly RunOptions _options = Asynchronous();

    protected PeerPlace Place => place;
    protected OrtGraph Graph { get; } = new();
    protected InferenceSession? Session { get; set; }
    protected abstract int Nodes { get; }

    /// <summary>Inputs and outputs of this many tokens.</summary>
    public abstract PeerCall Of(int tokens);

    /// <summary>Runs once and compares with the reference kernels.</summary>
    public abstract void Check(PeerCall call, Findings findings);

    /// <summary>Seconds of one node, and of the CPU to ask for it.</summary>
    public (double Seconds, double LaunchSeconds) Measure(PeerCall call)
    {
        var seconds = place.Clock.Seconds(turn => Run(call, turn));
        return (seconds / Nodes, place.Clock.LaunchSeconds / Nodes);
    }

    public virtual void Dispose()
    {
        Session?.Dispose();
        _options.Dispose();
        Graph.Dispose();
    }

    protected void Run(PeerCall call, int turn) => Session!.RunWithBinding(_options, call.Bindings[turn % call.Bindings.Count]);

    protected static float[] Floats(ReadOnlySpan<Half> values)
    {
        var floats = new float[values.Length];
        for (var i = 0; i < floats.Length; i++) floats[i] = (float)values[i];
        return floats;
    }

    protected static Half[] Halves(ReadOnlySpan<float> values)
    {
        var halves = new Half[values.Length];
        for (var i = 0; i < halves.Length; i++) halves[i] = (Half)values[i];
        return halves;
    }

    /// <summary>Adds float numbers as a weight of float16.</summary>
    protected unsafe string Weight(string name, ReadOnlySpan<float> values, params ReadOnlySpan<long> shape)
    {
        var halves = Halves(values);
        fixed (Half* data = halves) return Graph.Weight(name, TensorElementKind.Float16, (byte*)data, (nint)halves.Length * sizeof(Half), shape);
    }

    protected static void Compare(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual, string what, Findings findings)
    {
        var largest = 0f;
        foreach (var value in expected) largest = Math.Max(largest, Math.Abs(value));
        findings.True(largest > 0, $"{what}: the reference gives zeros.");
        findings.Near(expected, actual, Tolerance * largest, 0, what);
    }

    private static RunOptions Asynchronous()
    {
        var options = new RunOptions();
        // The stream is ours: events on it say when a run has ended.
        options.AddRunConfigEntry("disable_synchronize_execution_providers", "1");
        return options;
    }
}

/// <summary>What runs of so many tokens are given; they take turns with the bindings.</summary>
internal sealed class PeerCall(int tokens, IReadOnlyList<OrtIoBinding> bindings, IReadOnlyList<PeerTensor> inputs, IReadOnlyList<PeerTensor> outputs) : IDisposable
{
    public int Tokens => tokens;
    public IReadOnlyList<OrtIoBinding> Bindings => bindings;
    public IReadOnlyList<PeerTensor> Inputs => inputs;
    public IReadOnlyList<PeerTensor> Outputs => outputs;

    public void Dispose()
    {
        foreach (var binding in bindings) binding.Dispose();
        foreach (var tensor in inputs) tensor.Dispose();
        foreach (var tensor in outputs) tensor.Dispose();
    }
}
