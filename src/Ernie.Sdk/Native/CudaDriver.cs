using System.Runtime.InteropServices;

namespace Ernie.Sdk.Native;

/// <summary>
/// NVIDIA's driver API (cuda.h): the entry points that are used, by their exported names. The driver alone is needed for it, not the toolkit.
/// </summary>
/// <remarks>
/// Function pointers of one loaded library rather than P/Invokes of the assembly: a missing driver or entry point becomes a sentence where it is looked for, and tests load a driver of their own beside a
/// machine's. The library is never unloaded; drivers do not like it.
/// </remarks>
internal sealed unsafe class CudaDriver
{
    /// <summary>What the loader is asked for.</summary>
    public static string DefaultFile => OperatingSystem.IsWindows() ? "nvcuda.dll" : "libcuda.so.1";

    public readonly delegate* unmanaged<uint, CudaResult> Init;
    public readonly delegate* unmanaged<int*, CudaResult> DriverGetVersion;
    public readonly delegate* unmanaged<int*, CudaResult> DeviceGetCount;
    public readonly delegate* unmanaged<int*, int, CudaResult> DeviceGet;
    public readonly delegate* unmanaged<byte*, int, int, CudaResult> DeviceGetName;
    public readonly delegate* unmanaged<int*, int, int, CudaResult> DeviceGetAttribute;
    public readonly delegate* unmanaged<nuint*, int, CudaResult> DeviceTotalMem;
    public readonly delegate* unmanaged<nint*, int, CudaResult> DevicePrimaryCtxRetain;
    public readonly delegate* unmanaged<int, CudaResult> DevicePrimaryCtxRelease;
    public readonly delegate* unmanaged<nint, CudaResult> CtxSetCurrent;
    public readonly delegate* unmanaged<CudaResult> CtxSynchronize;
    public readonly delegate* unmanaged<int*, CudaResult> ThreadExchangeStreamCaptureMode;
    public readonly delegate* unmanaged<nint*, void*, uint, int*, void**, CudaResult> ModuleLoadDataEx;
    public readonly delegate* unmanaged<nint, CudaResult> ModuleUnload;
    public readonly delegate* unmanaged<nint*, nint, byte*, CudaResult> ModuleGetFunction;
    public readonly delegate* unmanaged<nint, int, int, CudaResult> FuncSetAttribute;
    public readonly delegate* unmanaged<nint, uint, uint, uint, uint, uint, uint, uint, nint, void**, void**, CudaResult> LaunchKernel;
    /// <summary>Null where the driver is older than CUDA 11.8.</summary>
    public readonly delegate* unmanaged<CudaLaunch*, nint, void**, void**, CudaResult> LaunchKernelEx;
    public readonly delegate* unmanaged<nint*, nuint, CudaResult> MemAlloc;
    public readonly delegate* unmanaged<nint, CudaResult> MemFree;
    public readonly delegate* unmanaged<nint, void*, nuint, nint, CudaResult> MemcpyHtoDAsync;
    public readonly delegate* unmanaged<void*, nint, nuint, nint, CudaResult> MemcpyDtoHAsync;
    public readonly delegate* unmanaged<nint, nint, nuint, nint, CudaResult> MemcpyDtoDAsync;
    public readonly delegate* unmanaged<nint, byte, nuint, nint, CudaResult> MemsetD8Async;
    public readonly delegate* unmanaged<nuint*, nuint*, CudaResult> MemGetInfo;
    public readonly delegate* unmanaged<void*, nuint, uint, CudaResult> MemHostRegister;
    public readonly delegate* unmanaged<void*, CudaResult> MemHostUnregister;
    public readonly delegate* unmanaged<nint*, uint, CudaResult> StreamCreate;
    public readonly delegate* unmanaged<nint, CudaResult> StreamDestroy;
    public readonly delegate* unmanaged<nint, CudaResult> StreamSynchronize;
    public readonly delegate* unmanaged<nint, nint, uint, CudaResult> StreamWaitEvent;
    public readonly delegate* unmanaged<nint*, uint, CudaResult> EventCreate;
    public readonly delegate* unmanaged<nint, CudaResult> EventDestroy;
    public readonly delegate* unmanaged<nint, nint, CudaResult> EventRecord;
    public readonly delegate* unmanaged<nint, CudaResult> EventSynchronize;
    public readonly delegate* unmanaged<nint, CudaResult> EventQuery;
    public readonly delegate* unmanaged<float*, nint, nint, CudaResult> EventElapsedTime;
    private readonly delegate* unmanaged<CudaResult, byte**, CudaResult> _getErrorName;
    private readonly delegate* unmanaged<CudaResult, byte**, CudaResult> _getErrorString;

    private CudaDriver(nint library, string file)
    {
        File = file;
        Init = (delegate* unmanaged<uint, CudaResult>)Export("cuInit");
        DriverGetVersion = (delegate* unmanaged<int*, CudaResult>)Export("cuDriverGetVersion");
        DeviceGetCount = (delegate* unmanaged<int*, CudaResult>)Export("cuDeviceGetCount");
        DeviceGet = (delegate* unmanaged<int*, int, CudaResult>)Export("cuDeviceGet");
        DeviceGetName = (delegate* unmanaged<byte*, int, int, CudaResult>)Export("cuDeviceGetName");
        DeviceGetAttribute = (delegate* unmanaged<int*, int, int, CudaResult>)Export("cuDeviceGetAttribute");
        DeviceTotalMem = (delegate* unmanaged<nuint*, int, CudaResult>)Export("cuDeviceTotalMem_v2");
        DevicePrimaryCtxRetain = (delegate* unmanaged<nint*, int, CudaResult>)Export("cuDevicePrimaryCtxRetain");
        DevicePrimaryCtxRelease = (delegate* unmanaged<int, CudaResult>)Export("cuDevicePrimaryCtxRelease_v2");
        CtxSetCurrent = (delegate* unmanaged<nint, CudaResult>)Export("cuCtxSetCurrent");
        ThreadExchangeStreamCaptureMode = (delegate* unmanaged<int*, CudaResult>)Export("cuThreadExchangeStreamCaptureMode");
        CtxSynchronize = (delegate* unmanaged<CudaResult>)Export("cuCtxSynchronize");
        ModuleLoadDataEx = (delegate* unmanaged<nint*, void*, uint, int*, void**, CudaResult>)Export("cuModuleLoadDataEx");
        ModuleUnload = (delegate* unmanaged<nint, CudaResult>)Export("cuModuleUnload");
        ModuleGetFunction = (delegate* unmanaged<nint*, nint, byte*, CudaResult>)Export("cuModuleGetFunction");
        FuncSetAttribute = (delegate* unmanaged<nint, int, int, CudaResult>)Export("cuFuncSetAttribute");
        LaunchKernel = (delegate* unmanaged<nint, uint, uint, uint, uint, uint, uint, uint, nint, void**, void**, CudaResult>)Export("cuLaunchKernel");
        LaunchKernelEx = NativeLibrary.TryGetExport(library, "cuLaunchKernelEx", out var launchEx) ? (delegate* unmanaged<CudaLaunch*, nint, void**, void**, CudaResult>)launchEx : null;
        MemAlloc = (delegate* unmanaged<nint*, nuint, CudaResult>)Export("cuMemAlloc_v2");
        MemFree = (delegate* unmanaged<nint, CudaResult>)Export("cuMemFree_v2");
        MemcpyHtoDAsync = (delegate* unmanaged<nint, void*, nuint, nint, CudaResult>)Export("cuMemcpyHtoDAsync_v2");
        MemcpyDtoHAsync = (delegate* unmanaged<void*, nint, nuint, nint, CudaResult>)Export("cuMemcpyDtoHAsync_v2");
        MemcpyDtoDAsync = (delegate* unmanaged<nint, nint, nuint, nint, CudaResult>)Export("cuMemcpyDtoDAsync_v2");
        MemsetD8Async = (delegate* unmanaged<nint, byte, nuint, nint, CudaResult>)Export("cuMemsetD8Async");
        MemGetInfo = (delegate* unmanaged<nuint*, nuint*, CudaResult>)Export("cuMemGetInfo_v2");
        MemHostRegister = (delegate* unmanaged<void*, nuint, uint, CudaResult>)Export("cuMemHostRegister_v2");
        MemHostUnregister = (delegate* unmanaged<void*, CudaResult>)Export("cuMemHostUnregister");
        StreamCreate = (delegate* unmanaged<nint*, uint, CudaResult>)Export("cuStreamCreate");
        StreamDestroy = (delegate* unmanaged<nint, CudaResult>)Export("cuStreamDestroy_v2");
        StreamSynchronize = (delegate* unmanaged<nint, CudaResult>)Export("cuStreamSynchronize");
        StreamWaitEvent = (delegate* unmanaged<nint, nint, uint, CudaResult>)Export("cuStreamWaitEvent");
        EventCreate = (delegate* unmanaged<nint*, uint, CudaResult>)Export("cuEventCreate");
        EventDestroy = (delegate* unmanaged<nint, CudaResult>)Export("cuEventDestroy_v2");
        EventRecord = (delegate* unmanaged<nint, nint, CudaResult>)Export("cuEventRecord");
        EventSynchronize = (delegate* unmanaged<nint, CudaResult>)Export("cuEventSynchronize");
        EventQuery = (delegate* unmanaged<nint, CudaResult>)Export("cuEventQuery");
        EventElapsedTime = (delegate* unmanaged<float*, nint, nint, CudaResult>)Export("cuEventElapsedTime");
        _getErrorName = (delegate* unmanaged<CudaResult, byte**, CudaResult>)Export("cuGetErrorName");
        _getErrorString = (delegate* unmanaged<CudaResult, byte**, CudaResult>)Export("cuGetErrorString");

        void* Export(string name) => NativeLibrary.TryGetExport(library, name, out var address) ? (void*)address : throw new EntryPointNotFoundException($"{file} has no {name}: the driver is too old.");
    }

    /// <summary>Name or path that the driver was loaded by.</summary>
    public string File { get; }

    /// <exception cref="DllNotFoundException">The loader does not find it.</exception>
    /// <exception cref="BadImageFormatException">It is built for another system.</exception>
    /// <exception cref="EntryPointNotFoundException">It is older than any driver that could run what needs it.</exception>
    public static CudaDriver Load(string? file = null)
    {
        file ??= DefaultFile;
        return new CudaDriver(NativeLibrary.Load(file), file);
    }

    /// <summary>Initialises the driver; a process does so once, but may do it again.</summary>
    /// <exception cref="CudaException">There is no GPU, or the driver's parts do not fit one another.</exception>
    public void Start() => Check(Init(0), "cuInit");

    /// <summary>The newest CUDA that this driver runs.</summary>
    public Version CudaVersion()
    {
        int version;
        Check(DriverGetVersion(&version), "cuDriverGetVersion");
        return new Version(version / 1000, version % 1000 / 10);
    }

    /// <summary>All GPUs that this process may use.</summary>
    public IReadOnlyList<CudaDevice> Devices()
    {
        int count;
        Check(DeviceGetCount(&count), "cuDeviceGetCount");
        var devices = new List<CudaDevice>(count);
        for (var ordinal = 0; ordinal < count; ordinal++)
        {
            int device;
            Check(DeviceGet(&device, ordinal), "cuDeviceGet");
            devices.Add(new CudaDevice(this, ordinal, device));
        }
        return devices;
    }

    public void Check(CudaResult result, string call)
    {
        if (result != CudaResult.Success) throw Failure(result, call);
    }

    public CudaException Failure(CudaResult result, string call)
    {
        byte* name = null, text = null;
        // Errors of a newer driver than the one that is asked have no name.
        if (_getErrorName(result, &name) != CudaResult.Success) name = null;
        if (_getErrorString(result, &text) != CudaResult.Success) text = null;
        return new CudaException(result, call, Marshal.PtrToStringUTF8((nint)name) ?? "an unknown error", Marshal.PtrToStringUTF8((nint)text) ?? "");
    }
}
