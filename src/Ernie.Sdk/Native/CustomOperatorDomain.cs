using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.Native;

/// <summary>
/// A domain of operators and the native blocks that describe them. Must outlive every session created with it: dispose after the session.
/// </summary>
/// <remarks>It has no finalizer on purpose: a session that is left to the finalizer may still call the blocks, and a leak of some hundred bytes is the lesser evil.</remarks>
internal sealed unsafe class CustomOperatorDomain : IDisposable
{
    private readonly List<nint> _blocks = [];
    private nint _domain;

    /// <summary>What ONNX Runtime holds of an operator: its table, then our state behind it.</summary>
    private struct Block
    {
        public OrtCustomOp Op;
        public nint Operator;
        public byte* Name;
        /// <summary>Null for the CPU's.</summary>
        public byte* ExecutionProvider;
    }

    public CustomOperatorDomain(string name, params IEnumerable<CustomOperator> operators)
    {
        fixed (byte* p = Ort.Utf8(name))
        {
            nint domain;
            Ort.Check(((delegate* unmanaged<byte*, nint*, nint>)Ort.Api->CreateCustomOpDomain)(p, &domain));
            _domain = domain;
        }
        foreach (var op in operators) Add(op);
    }

    public void AddTo(SessionOptions options)
    {
        var added = false;
        try
        {
            options.DangerousAddRef(ref added);
            Ort.Check(((delegate* unmanaged<nint, nint, nint>)Ort.Api->AddCustomOpDomain)(options.DangerousGetHandle(), _domain));
        }
        finally
        {
            if (added) options.DangerousRelease();
        }
    }

    public void Dispose()
    {
        if (_domain == 0) return;
        ((delegate* unmanaged<nint, void>)Ort.Api->ReleaseCustomOpDomain)(_domain);
        _domain = 0;
        foreach (var address in _blocks)
        {
            var block = (Block*)address;
            GCHandle.FromIntPtr(block->Operator).Free();
            NativeMemory.Free(block->Name);
            NativeMemory.Free(block->ExecutionProvider);
            NativeMemory.Free(block);
        }
        _blocks.Clear();
    }

    private void Add(CustomOperator op)
    {
        var block = (Block*)NativeMemory.AllocZeroed((nuint)sizeof(Block));
        block->Operator = GCHandle.ToIntPtr(GCHandle.Alloc(op));
        block->Name = Text(op.Name);
        if (op.ExecutionProvider is { } provider) block->ExecutionProvider = Text(provider);
        block->Op = new OrtCustomOp
        {
            Version = Ort.ApiVersion,
            GetName = &GetName,
            GetExecutionProviderType = &GetExecutionProviderType,
            GetInputType = &GetInputType,
            GetInputTypeCount = &GetInputTypeCount,
            GetOutputType = &GetOutputType,
            GetOutputTypeCount = &GetOutputTypeCount,
            KernelDestroy = &KernelDestroy,
            GetInputCharacteristic = &GetInputCharacteristic,
            GetOutputCharacteristic = &GetOutputCharacteristic,
            GetInputMemoryType = &GetInputMemoryType,
            GetVariadicInputMinArity = &ZeroOf,
            GetVariadicInputHomogeneity = &ZeroOf,
            GetVariadicOutputMinArity = &ZeroOf,
            GetVariadicOutputHomogeneity = &ZeroOf,
            CreateKernelV2 = &CreateKernelV2,
            KernelComputeV2 = &KernelComputeV2,
            GetStartVersion = &GetStartVersion,
            GetEndVersion = &GetEndVersion,
        };
        _blocks.Add((nint)block);
        Ort.Check(((delegate* unmanaged<nint, OrtCustomOp*, nint>)Ort.Api->CustomOpDomain_Add)(_domain, &block->Op));
    }

    /// <summary>The tables as ONNX Runtime has them, in the order of the operators.</summary>
    internal IReadOnlyList<nint> Tables => _blocks;

    private static byte* Text(string text)
    {
        var bytes = Ort.Utf8(text);
        var copy = (byte*)NativeMemory.Alloc((nuint)bytes.Length);
        bytes.CopyTo(new Span<byte>(copy, bytes.Length));
        return copy;
    }

    private static CustomOperator Of(OrtCustomOp* op) => Unsafe.As<CustomOperator>(GCHandle.FromIntPtr(((Block*)op)->Operator).Target!);

    [UnmanagedCallersOnly]
    private static byte* GetName(OrtCustomOp* op) => ((Block*)op)->Name;

    // Null means the CPU provider.
    [UnmanagedCallersOnly]
    private static byte* GetExecutionProviderType(OrtCustomOp* op) => ((Block*)op)->ExecutionProvider;

    [UnmanagedCallersOnly]
    private static int GetInputType(OrtCustomOp* op, nuint index) => (int)Of(op).Inputs[(int)index].Kind;

    [UnmanagedCallersOnly]
    private static nuint GetInputTypeCount(OrtCustomOp* op) => (nuint)Of(op).Inputs.Count;

    [UnmanagedCallersOnly]
    private static int GetOutputType(OrtCustomOp* op, nuint index) => (int)Of(op).Outputs[(int)index].Kind;

    [UnmanagedCallersOnly]
    private static nuint GetOutputTypeCount(OrtCustomOp* op) => (nuint)Of(op).Outputs.Count;

    [UnmanagedCallersOnly]
    private static int GetInputCharacteristic(OrtCustomOp* op, nuint index) => (int)Of(op).Inputs[(int)index].Arity;

    [UnmanagedCallersOnly]
    private static int GetOutputCharacteristic(OrtCustomOp* op, nuint index) => (int)Of(op).Outputs[(int)index].Arity;

    [UnmanagedCallersOnly]
    private static int GetInputMemoryType(OrtCustomOp* op, nuint index) => (int)Of(op).Inputs[(int)index].Memory;

    [UnmanagedCallersOnly]
    private static int ZeroOf(OrtCustomOp* op) => 0;

    [UnmanagedCallersOnly]
    private static int GetStartVersion(OrtCustomOp* op) => 1;

    [UnmanagedCallersOnly]
    private static int GetEndVersion(OrtCustomOp* op) => int.MaxValue;

#pragma warning disable CA1031 // No exception may cross into native code: it becomes a status.
    [UnmanagedCallersOnly]
    private static nint CreateKernelV2(OrtCustomOp* op, OrtApi* api, nint info, nint* kernel)
    {
        *kernel = 0;
        try
        {
            *kernel = GCHandle.ToIntPtr(GCHandle.Alloc(Of(op).CreateKernel(new OrtKernelInfo(info))));
            return 0;
        }
        catch (Exception e)
        {
            return Ort.CreateStatus(e.Message);
        }
    }

    [UnmanagedCallersOnly]
    private static nint KernelComputeV2(nint kernel, nint context)
    {
        try
        {
            Unsafe.As<CustomKernel>(GCHandle.FromIntPtr(kernel).Target!).Compute(new OrtComputeContext(context));
            return 0;
        }
        catch (Exception e)
        {
            return Ort.CreateStatus($"{e.GetType().Name}: {e.Message}");
        }
    }

    [UnmanagedCallersOnly]
    private static void KernelDestroy(nint kernel)
    {
        if (kernel == 0) return;
        var handle = GCHandle.FromIntPtr(kernel);
        try
        {
            Unsafe.As<CustomKernel>(handle.Target!).Dispose();
        }
        catch (Exception)
        {
            // There is nobody to tell: the session is on its way out.
        }
        handle.Free();
    }
#pragma warning restore CA1031
}
