namespace Ernie.Sdk.Native;

internal enum Arity { Required = 0, Optional = 1 }

/// <summary>Type and arity of an operator's input or output.</summary>
internal readonly record struct Port(string Name, TensorElementKind Kind, Arity Arity = Arity.Required);

/// <summary>An operator as ONNX Runtime sees it. One instance belongs to one session.</summary>
internal abstract class CustomOperator
{
    public abstract string Name { get; }
    public abstract IReadOnlyList<Port> Inputs { get; }
    public abstract IReadOnlyList<Port> Outputs { get; }
    public abstract CustomKernel CreateKernel(OrtKernelInfo info);
}

/// <summary>One node of one session.</summary>
internal abstract class CustomKernel
{
    public abstract void Compute(OrtComputeContext context);
}
