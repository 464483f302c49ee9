using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

/// <summary>An operator of the schema for the GPU: its initializers stay in the CPU's memory, for the kernel to send, and everything else is on the device.</summary>
internal abstract class CudaOperator(string name, IReadOnlyList<Port> inputs, IReadOnlyList<Port> outputs, CudaOperatorEnvironment environment, params int[] weights) : CustomOperator
{
    public override string Name => name;
    public override IReadOnlyList<Port> Inputs { get; } = [.. inputs.Select((port, i) => weights.Contains(i) ? port with { Memory = PortMemory.Cpu } : port)];
    public override IReadOnlyList<Port> Outputs => outputs;
    public override string? ExecutionProvider => environment.Provider;
    protected CudaOperatorEnvironment Environment => environment;
}

/// <summary>A node whose weights are on the GPU.</summary>
internal abstract unsafe class CudaKernel(CudaOperatorEnvironment environment) : CustomKernel
{
    private readonly List<CudaMemory> _weights = [];

    protected CudaOperatorEnvironment Environment => environment;

    /// <summary>The same matrix, in device memory.</summary>
    protected PackedMatrix Send(PackedMatrix matrix)
    {
        var bytes = matrix.Format.Bytes(matrix.Rows / matrix.SectionRows, matrix.SectionRows, matrix.Columns);
        if (matrix.Format.IsPacked) environment.HasPackedWeights = true;
        return new PackedMatrix(matrix.Format, (byte*)Send(matrix.Data, bytes), matrix.Rows, matrix.Columns, matrix.SectionRows);
    }

    protected void* Send(void* data, long bytes)
    {
        var memory = environment.Send(data, bytes);
        _weights.Add(memory);
        return (void*)memory.Address;
    }

    /// <summary>ONNX Runtime does not destroy a kernel whose creation failed.</summary>
    protected void Create(Action create)
    {
        try
        {
            create();
        }
        catch (Exception e)
        {
            environment.Fail(e);
            Dispose();
            throw;
        }
    }

    public sealed override void Compute(OrtComputeContext context)
    {
        try
        {
            Launch(context);
        }
        catch (Exception e)
        {
            environment.Fail(e);
            throw;
        }
    }

    /// <summary>Asks for the node's numbers on its stream.</summary>
    protected abstract void Launch(OrtComputeContext context);

    public override void Dispose()
    {
        base.Dispose();
        foreach (var memory in _weights) memory.Dispose();
        _weights.Clear();
    }
}

internal sealed class CudaAddRmsNormOperator(CudaOperatorEnvironment environment)
    : CudaOperator(OperatorSchema.AddRmsNorm.Name, OperatorSchema.AddRmsNorm.Inputs, OperatorSchema.AddRmsNorm.Outputs, environment, 1)
{
    public override CustomKernel CreateKernel(OrtKernelInfo info) => new Kernel(Environment, info);

    private sealed unsafe class Kernel : CudaKernel
    {
        private AddRmsNormArguments _node;

        public Kernel(CudaOperatorEnvironment environment, OrtKernelInfo info) : base(environment) => Create(() =>
        {
            _node = AddRmsNormOperator.Read(info);
            _node.Weight = (float*)Send(_node.Weight, (long)_node.Columns * sizeof(float));
        });

        protected override void Launch(OrtComputeContext context)
        {
            var arguments = AddRmsNormOperator.Bind(_node, context);
            if (arguments.TokenCount > 0) Environment.Kernels.AddRmsNorm(arguments, Environment.Enter(context));
        }
    }
}

internal sealed class CudaLinearOperator(CudaOperatorEnvironment environment)
    : CudaOperator(OperatorSchema.Linear.Name, OperatorSchema.Linear.Inputs, OperatorSchema.Linear.Outputs, environment, 1)
{
    public override CustomKernel CreateKernel(OrtKernelInfo info) => new Kernel(Environment, info);

    private sealed class Kernel : CudaKernel
    {
        private LinearArguments _node;

        public Kernel(CudaOperatorEnvironment environment, OrtKernelInfo info) : base(environment) => Create(() =>
        {
            _node = LinearOperator.Read(info);
            _node.Weight = Send(_node.Weight);
        });

        protected override void Launch(OrtComputeContext context)
        {
            var arguments = LinearOperator.Bind(_node, context);
            if (arguments.TokenCount > 0) Environment.Kernels.Linear(arguments, Environment.Enter(context));
        }
    }
}

internal sealed class CudaSparseAttentionOperator(CudaOperatorEnvironment environment)
    : CudaOperator(OperatorSchema.SparseAttention.Name, OperatorSchema.SparseAttention.Inputs, OperatorSchema.SparseAttention.Outputs, environment)
{
    public override CustomKernel CreateKernel(OrtKernelInfo info) => new Kernel(Environment, info);

    private sealed unsafe class Kernel(CudaOperatorEnvironment environment, OrtKernelInfo info) : CudaKernel(environment)
    {
        private readonly AttentionArguments _node = SparseAttentionOperator.Read(info, environment.Layout, environment.Rope);

        protected override void Launch(OrtComputeContext context)
        {
            var arguments = SparseAttentionOperator.Bind(_node, context);
            if (Environment.Cache is { } cache && ((nint)arguments.Pool < cache.Begin || (nint)arguments.Pool >= cache.End)) throw new InvalidOperationException("ONNX Runtime hands on a copy of the KV cache, not the cache.");
            if (arguments.TokenCount > 0) Environment.Kernels.Attention(arguments, Environment.Enter(context));
        }
    }
}

internal sealed class CudaMoeExpertsOperator(CudaOperatorEnvironment environment)
    : CudaOperator(OperatorSchema.MoeExperts.Name, OperatorSchema.MoeExperts.Inputs, OperatorSchema.MoeExperts.Outputs, environment, 1, 2, 3, 4)
{
    public override CustomKernel CreateKernel(OrtKernelInfo info) => new Kernel(Environment, info);

    private sealed unsafe class Kernel : CudaKernel
    {
        private ExpertsArguments _node, _host;
        private int _index, _hostCount;

        public Kernel(CudaOperatorEnvironment environment, OrtKernelInfo info) : base(environment) => Create(() =>
        {
            _node = MoeExpertsOperator.Read(info);
            _index = environment.Choices?.IndexOf(info.NodeName, _node) ?? 0;
            _hostCount = environment.HostExperts?.CountOf(environment.Choices!.LayerOf(_index)) ?? 0;
            if (_hostCount > 0)
            {
                _host = _node;
                _host.Router = null;
                _host.CorrectionBias = null;
                _node = First(_node, _node.ExpertEnd - _node.ExpertBegin - _hostCount);
                environment.HostExperts!.Slots.Residency.Add(_index, _host.ExpertBegin, _host.ExpertEnd, _node.ExpertEnd);
            }
            _node.Router = (float*)Send(_node.Router, (long)_node.ExpertCount * _node.HiddenSize * sizeof(float));
            _node.CorrectionBias = (float*)Send(_node.CorrectionBias, (long)_node.ExpertCount * sizeof(float));
            if (_node.ExpertEnd == _node.ExpertBegin) return;
            _node.GateUp = Send(_node.GateUp);
            _node.Down = Send(_node.Down);
            if (_hostCount == 0) return;
            fixed (int* slots = environment.HostExperts!.Slots.Residency.SlotsOf(_index)) _node.Slots = (int*)Send(slots, _node.ExpertCount * sizeof(int));
            environment.HostExperts.Slots.Add(_index, _host, _node);
        });

        protected override void Launch(OrtComputeContext context)
        {
            var arguments = MoeExpertsOperator.Bind(_node, context);
            if (arguments.TokenCount == 0) return;
            // A debug export has them among its outputs, which are not ours to read.
            if (arguments.Selected == null && Environment.Choices is { } choices) arguments.Selected = choices.Of(_index);
            var cuda = Environment.Enter(context);
            if (_hostCount == 0) Environment.Kernels.Experts(arguments, cuda);
            else LaunchBeside(Environment.HostExperts!, arguments, cuda, context);
        }

        /// <summary>The CPU computes its experts while the GPU computes the others.</summary>
        private void LaunchBeside(CudaHostExperts host, ExpertsArguments arguments, in CudaKernelContext cuda, OrtComputeContext call)
        {
            host.Reserve(arguments.TokenCount);
            if (arguments.Weights == null) arguments.Weights = host.DeviceWeights;
            Environment.Kernels.Route(arguments, cuda);
            host.Ask(arguments, cuda.Stream);
            arguments.Router = null;
            var isSplit = arguments.ExpertEnd > arguments.ExpertBegin;
            if (isSplit) Environment.Kernels.Experts(arguments, cuda);
            var isChosen = host.Compute(_host, host.Slots.Residency.SlotsOf(_index), arguments.TokenCount, call);
            if (!isSplit)
            {
                host.Send(arguments.Output, arguments.TokenCount, cuda.Stream);
            }
            else if (isChosen)
            {
                host.Send(host.DeviceSum, arguments.TokenCount, cuda.Stream);
                Environment.Kernels.AddPartial(host.DeviceSum, arguments, cuda);
            }
        }

        /// <summary>The first experts of a node, as slots.</summary>
        private static ExpertsArguments First(ExpertsArguments node, nint count)
        {
            node.GateUp = node.GateUp.Slice(0, count * 2 * node.IntermediateSize);
            node.Down = node.Down.Slice(0, count * node.HiddenSize);
            (node.ExpertBegin, node.ExpertEnd) = (0, (int)count);
            return node;
        }
    }
}
