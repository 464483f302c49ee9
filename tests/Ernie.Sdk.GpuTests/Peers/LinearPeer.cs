using Ernie.Cli.Measuring.Layers;
using Ernie.Sdk.GpuTests.Checks;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.GpuTests.Peers;

/// <summary>ONNX Runtime's MatMulNBits: as many nodes with a weight each as caches do not hold.</summary>
internal sealed unsafe class LinearPeer : OrtPeer
{
    private const long RotatingBytes = 512L << 20;
    private readonly IParallelRunner _runner;
    private readonly RandomWeights _weights;
    private readonly int _rows, _columns;

    /// <param name="place">Where it runs.</param>
    /// <param name="format">int4 in groups.</param>
    /// <param name="rows">Outputs.</param>
    /// <param name="columns">Inputs.</param>
    /// <param name="isTiny">Whether two nodes will do.</param>
    /// <param name="runner">Threads.</param>
    /// <param name="entries">Settings of the session.</param>
    public LinearPeer(PeerPlace place, WeightFormat format, int rows, int columns, bool isTiny, IParallelRunner runner, params (string Key, string Value)[] entries) : base(place)
    {
        (_rows, _columns, _runner) = (rows, columns, runner);
        using var layout = new OrtMatrix(format, 1, rows, columns);
        _weights = new RandomWeights(format, 1, rows, columns, 11, runner, onRow: layout.Store);
        try
        {
            var groups = columns / format.Group;
            Nodes = isTiny ? 2 : (int)Math.Max(2, RotatingBytes / layout.Codes.Bytes);
            var scales = new ReadOnlySpan<float>(layout.Scales.Floats, rows * groups);
            var x = Graph.Input("x", columns, TensorElementKind.Float16);
            for (var i = 0; i < Nodes; i++)
            {
                var y = $"y{i}";
                var codes = Graph.Weight($"{y}.codes", TensorElementKind.UInt8, layout.Codes.Pointer, layout.Codes.Bytes, rows, groups, format.Group / 2);
                Graph.Node("MatMulNBits", y, [x, codes, Weight($"{y}.scales", scales, (long)rows * groups)], ("K", columns), ("N", rows), ("bits", 4), ("block_size", format.Group));
                Graph.Output(y, rows, TensorElementKind.Float16);
            }
            Session = place.Session(Graph, entries);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    protected override int Nodes { get; }

    public override PeerCall Of(int tokens)
    {
        PeerTensor x = Place.Tensor(tokens, _columns), y = Place.Tensor(tokens, _rows);
        x.Write(Input(tokens));
        var binding = Session!.CreateIoBinding();
        binding.BindInput("x", x.Value);
        // All give the same, in the same place.
        for (var i = 0; i < Nodes; i++) binding.BindOutput($"y{i}", y.Value);
        return new PeerCall(tokens, [binding], [x], [y]);
    }

    public override void Check(PeerCall call, Findings findings)
    {
        Run(call, 0);
        var (input, output) = (Floats(Input(call.Tokens)), Floats(call.Outputs[0].Read()));
        foreach (var token in new[] { 0, call.Tokens - 1 }.Distinct())
        {
            var expected = new float[_rows];
            using var scratch = new ScratchBuffer();
            fixed (float* x = input, y = expected)
                KernelRegistry.Choose("reference").Linear(new LinearArguments { Input = x + (nint)token * _columns, TokenCount = 1, Weight = _weights.All, Output = y }, new KernelContext(_runner, scratch));
            Compare(expected, output.AsSpan(token * _rows, _rows), $"MatMulNBits, token {token} of {call.Tokens}", findings);
        }
    }

    public override void Dispose()
    {
        base.Dispose();
        _weights.Dispose();
    }

    private Half[] Input(int tokens) => Halves(RandomTensor.Floats(new Random(6), tokens * _columns, 2));
}
