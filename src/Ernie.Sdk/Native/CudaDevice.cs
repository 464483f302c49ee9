using System.Runtime.InteropServices;

namespace Ernie.Sdk.Native;

/// <summary>A GPU.</summary>
internal sealed unsafe class CudaDevice
{
    // CUdevice_attribute
    private const int MultiprocessorCountAttribute = 16, ComputeCapabilityMajor = 75, ComputeCapabilityMinor = 76, MaxSharedMemoryPerBlockOptin = 97;

    private readonly int _device;

    internal CudaDevice(CudaDriver driver, int ordinal, int device)
    {
        Driver = driver;
        Ordinal = ordinal;
        _device = device;
        const int NameBytes = 256;
        var name = stackalloc byte[NameBytes];
        driver.Check(driver.DeviceGetName(name, NameBytes, device), "cuDeviceGetName");
        Name = Marshal.PtrToStringUTF8((nint)name) ?? "";
        ComputeCapability = new Version(Attribute(ComputeCapabilityMajor), Attribute(ComputeCapabilityMinor));
        MultiprocessorCount = Attribute(MultiprocessorCountAttribute);
        SharedBytesPerBlock = Attribute(MaxSharedMemoryPerBlockOptin);
        nuint bytes;
        driver.Check(driver.DeviceTotalMem(&bytes, device), "cuDeviceTotalMem");
        TotalBytes = checked((long)bytes);
    }

    public CudaDriver Driver { get; }
    /// <summary>Number among the GPUs that this process may use: ONNX Runtime's <c>device_id</c>.</summary>
    public int Ordinal { get; }
    public string Name { get; }
    /// <summary>As in 8.0 for sm_80.</summary>
    public Version ComputeCapability { get; }
    public int MultiprocessorCount { get; }
    /// <summary>Most shared memory that a block may ask for.</summary>
    public int SharedBytesPerBlock { get; }
    public long TotalBytes { get; }

    /// <summary>The context that ONNX Runtime's CUDA provider computes in: CUDA's runtime library knows no other.</summary>
    /// <param name="limit">How much memory may be allocated by what is returned; null: what there is.</param>
    public CudaContext Retain(CudaMemoryLimit? limit = null)
    {
        nint context;
        Driver.Check(Driver.DevicePrimaryCtxRetain(&context, _device), "cuDevicePrimaryCtxRetain");
        return new CudaContext(this, context, _device, limit);
    }

    private int Attribute(int attribute)
    {
        int value;
        Driver.Check(Driver.DeviceGetAttribute(&value, attribute, _device), "cuDeviceGetAttribute");
        return value;
    }
}
