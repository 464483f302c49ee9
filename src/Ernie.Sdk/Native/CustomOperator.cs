namespace Ernie.Sdk.Native;

internal enum Arity { Required = 0, Optional = 1 }

/// <summary>OrtMemType: where a kernel wants an input. Outputs of custom operators are on the provider's device always.</summary>
internal enum PortMemory
{
    /// <summary>On the device of the operator's provider.</summary>
    Device = 0,
    /// <summary>On the CPU, whatever the provider. An initializer is then not copied to the device: it stays in the mapped file.</summary>
    Cpu = -2,
}

/// <summary>Type and arity of an operator's input or output.</summary>
internal readonly record struct Port(string Name, TensorElementKind Kind, Arity Arity = Arity.Required)
{
    public PortMemory Memory { get; init; }
}

/// <summary>An operator as ONNX Runtime sees it. One instance belongs to one session.</summary>
internal abstract class CustomOperator
{
    public abstract string Name { get; }
    public abstract IReadOnlyList<Port> Inputs { get; }
    public abstract IReadOnlyList<Port> Outputs { get; }
    /// <summary>The provider whose nodes and memory this is for; null for the CPU's. A domain may hold one operator of a name for each.</summary>
    public virtual string? ExecutionProvider => null;
    public abstract CustomKernel CreateKernel(OrtKernelInfo info);
}

/// <summary>One node of one session. ONNX Runtime destroys it with the session.</summary>
internal abstract class CustomKernel : IDisposable
{
    public abstract void Compute(OrtComputeContext context);

    public virtual void Dispose()
    {
    }
}
