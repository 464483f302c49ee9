using System.Runtime.InteropServices;

namespace Ernie.Sdk.Native;

/// <summary>CUlaunchConfig (cuda.h).</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CudaLaunch
{
    public uint GridX, GridY, GridZ;
    public uint BlockX, BlockY, BlockZ;
    public uint SharedBytes;
    public nint Stream;
    public CudaLaunchAttribute* Attributes;
    public uint AttributeCount;
}

/// <summary>CUlaunchAttribute (cuda.h): a number that says what the value is, and 64 bytes of it.</summary>
[StructLayout(LayoutKind.Explicit, Size = 72)]
internal struct CudaLaunchAttribute
{
    /// <summary>CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: the kernel may begin before the one before it has ended, and waits itself.</summary>
    public const int ProgrammaticStreamSerialization = 6;

    [FieldOffset(0)] public int Id;
    [FieldOffset(8)] public int Value;
}
