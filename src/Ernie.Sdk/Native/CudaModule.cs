using System.Text;

namespace Ernie.Sdk.Native;

/// <summary>Compiled kernels. The driver keeps what it compiles from PTX in a cache of its own (<c>~/.nv/ComputeCache</c>), so a second process starts faster.</summary>
internal sealed unsafe class CudaModule : CudaResource
{
    private const int LogBytes = 16 << 10;
    private readonly nint _handle;

    private CudaModule(CudaContext context, nint handle) : base(context) => _handle = handle;

    internal static CudaModule Load(CudaContext context, ReadOnlySpan<byte> image)
    {
        // CUjit_option
        const int ErrorLogBuffer = 5, ErrorLogBufferBytes = 6;
        var driver = context.Driver;
        // PTX is text that ends with a zero; a cubin does not mind one.
        var text = new byte[image.Length + 1];
        image.CopyTo(text);
        var log = new byte[LogBytes];
        nint handle;
        CudaResult result;
        fixed (byte* t = text)
        fixed (byte* l = log)
        {
            var options = stackalloc int[] { ErrorLogBuffer, ErrorLogBufferBytes };
            // Sizes are passed in the pointer itself.
            var values = stackalloc void*[] { l, (void*)(nint)LogBytes };
            result = driver.ModuleLoadDataEx(&handle, t, 2, options, values);
        }
        if (result == CudaResult.Success) return new CudaModule(context, handle);
        var end = Array.IndexOf(log, (byte)0);
        var said = Encoding.UTF8.GetString(log, 0, end < 0 ? LogBytes : end).Trim();
        var failure = driver.Failure(result, "cuModuleLoadDataEx");
        throw said.Length == 0 ? failure : new CudaException(result, failure.Call, failure.ErrorName, said);
    }

    /// <summary>A kernel, valid as long as the module.</summary>
    /// <exception cref="CudaException">There is none of that name.</exception>
    /// <param name="name">Its name.</param>
    /// <param name="overlaps">Whether its launches may begin before what was launched before has ended; it must wait itself then.</param>
    public CudaFunction Function(string name, bool overlaps = false)
    {
        Context.Enter();
        nint function;
        CudaResult result;
        fixed (byte* n = Ort.Utf8(name)) result = Driver.ModuleGetFunction(&function, _handle, n);
        if (result != CudaResult.Success) throw Driver.Failure(result, $"cuModuleGetFunction of '{name}'");
        return new CudaFunction(Driver, function, name, overlaps && Driver.LaunchKernelEx != null);
    }

    protected override void Destroy() => _ = Driver.ModuleUnload(_handle);
}

/// <summary>Blocks of a grid, or threads of a block.</summary>
internal readonly record struct CudaSize(uint X, uint Y = 1, uint Z = 1);

/// <summary>A kernel of a module.</summary>
internal readonly unsafe struct CudaFunction(CudaDriver driver, nint handle, string name, bool overlaps)
{
    public string Name => name;

    /// <summary>Whether launches may begin before what was launched before has ended.</summary>
    public bool Overlaps => overlaps;

    /// <summary>Lets blocks use more than 48 KiB of shared memory.</summary>
    public void AllowSharedBytes(int bytes)
    {
        const int MaxDynamicSharedSizeBytes = 8;
        driver.Check(driver.FuncSetAttribute(handle, MaxDynamicSharedSizeBytes, bytes), $"cuFuncSetAttribute of '{name}'");
    }

    /// <summary>Asks for a run of the kernel. The context must be current (<see cref="CudaContext.Enter"/>); nothing waits, nothing is allocated.</summary>
    /// <param name="grid">Blocks.</param>
    /// <param name="block">Threads of a block.</param>
    /// <param name="sharedBytes">Dynamic shared memory of a block.</param>
    /// <param name="stream">A CUstream: one of ours, or ONNX Runtime's.</param>
    /// <param name="arguments">For each parameter the address of its value, which is read before this returns.</param>
    public void Launch(CudaSize grid, CudaSize block, int sharedBytes, nint stream, params ReadOnlySpan<nint> arguments)
    {
        CudaResult result;
        fixed (nint* a = arguments)
        {
            if (overlaps)
            {
                var attribute = new CudaLaunchAttribute { Id = CudaLaunchAttribute.ProgrammaticStreamSerialization, Value = 1 };
                var launch = new CudaLaunch
                {
                    GridX = grid.X, GridY = grid.Y, GridZ = grid.Z, BlockX = block.X, BlockY = block.Y, BlockZ = block.Z, SharedBytes = (uint)sharedBytes, Stream = stream, Attributes = &attribute, AttributeCount = 1,
                };
                result = driver.LaunchKernelEx(&launch, handle, (void**)a, null);
            }
            else
            {
                result = driver.LaunchKernel(handle, grid.X, grid.Y, grid.Z, block.X, block.Y, block.Z, (uint)sharedBytes, stream, (void**)a, null);
            }
        }
        if (result != CudaResult.Success) throw driver.Failure(result, $"{(overlaps ? "cuLaunchKernelEx" : "cuLaunchKernel")} of '{name}'");
    }
}
