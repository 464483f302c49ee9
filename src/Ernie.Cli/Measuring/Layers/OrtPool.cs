using System.Runtime.ExceptionServices;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Cli.Measuring.Layers;

/// <summary>ONNX Runtime's own thread pool, set up as a loaded model's: a session of one operator, whose kernel runs what it is given.</summary>
internal sealed class OrtPool : IDisposable
{
    private const string Domain = "ernie.bench";
    private readonly Call _call;
    private readonly CustomOperatorDomain _domain;
    private readonly InferenceSession _session;
    private readonly RunOptions _options = new();
    private readonly OrtValue _input = OrtValue.CreateTensorValueFromMemory(new float[1], [1]);
    private readonly OrtValue _output = OrtValue.CreateTensorValueFromMemory(new float[1], [1]);

    public OrtPool(int threads)
    {
        OrtRuntime.Start(null, allowTelemetry: false);
        _call = new Call(threads);
        _domain = new CustomOperatorDomain(Domain, _call);
        var graph = new GraphBuilder("pool").Opset("", 23).Opset(Domain, 1);
        graph.Input("x", TensorElementKind.Float, 1);
        graph.Node(_call.Name, Domain, "call", ["x"], ["y"], []);
        graph.Output("y", TensorElementKind.Float, 1);
        using var options = new SessionOptions { IntraOpNumThreads = threads, InterOpNumThreads = 1 };
        options.AddSessionConfigEntry("session.intra_op.allow_spinning", "0");
        _domain.AddTo(options);
        _session = new InferenceSession(graph.Build("", new Dictionary<string, long>(), ""), options);
    }

    public void Run(Action<KernelContext> work)
    {
        _call.Work = work;
        _session.Run(_options, ["x"], [_input], ["y"], [_output]);
        _call.Failure?.Throw();
    }

    public void Dispose()
    {
        _session.Dispose();
        _domain.Dispose();
        _input.Dispose();
        _output.Dispose();
        _options.Dispose();
        _call.Dispose();
    }

    private sealed class Call(int threads) : CustomOperator, IDisposable
    {
        private readonly OrtThreadPool _pool = new(threads);
        private readonly ScratchBuffer _scratch = new();

        public Action<KernelContext>? Work { get; set; }
        /// <summary>What the last call threw: on the way through ONNX Runtime it would lose its type.</summary>
        public ExceptionDispatchInfo? Failure { get; private set; }
        public override string Name => "Call";
        public override IReadOnlyList<Port> Inputs { get; } = [new("x", TensorElementKind.Float)];
        public override IReadOnlyList<Port> Outputs { get; } = [new("y", TensorElementKind.Float)];
        public override CustomKernel CreateKernel(OrtKernelInfo info) => new Kernel(this);

        public void Dispose()
        {
            _pool.Dispose();
            _scratch.Dispose();
        }

        private sealed unsafe class Kernel(Call call) : CustomKernel
        {
            public override void Compute(OrtComputeContext context)
            {
                *(float*)context.Output(0, 1) = 0;
                call._pool.Enter(context);
                call.Failure = null;
                try
                {
                    call.Work!(new KernelContext(call._pool, call._scratch));
                }
#pragma warning disable CA1031 // Thrown again by the caller.
                catch (Exception e)
#pragma warning restore CA1031
                {
                    call.Failure = ExceptionDispatchInfo.Capture(e);
                }
            }
        }
    }
}
