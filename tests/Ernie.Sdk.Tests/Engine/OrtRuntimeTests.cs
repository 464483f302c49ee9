using System.Runtime.InteropServices;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Tests.Engine;

public sealed partial class OrtRuntimeTests
{
    [Theory]
    [InlineData("linux-x64")]
    [InlineData("linux-arm64")]
    [InlineData("win-x64")]
    [InlineData("win-arm64")]
    [InlineData("osx-arm64")]
    [InlineData("osx.15-arm64")]
    [InlineData("ubuntu.24.04-x64")]
    [InlineData("debian.13-arm64")]
    public void ASupportedSystem_IsNotRefused(string rid) => Assert.Null(OrtRuntime.UnsupportedSystem(rid, is64BitLittleEndian: true));

    [Theory]
    [InlineData("linux-musl-x64", "glibc")]
    [InlineData("linux-musl-arm64", "glibc")]
    [InlineData("alpine.3.20-x64", "glibc")]
    [InlineData("osx-x64", "Apple silicon")]
    [InlineData("osx.14-x64", "Apple silicon")]
    public void ASystemWithoutABuildOfOnnxRuntime_IsRefusedWithTheWayOut(string rid, string wayOut)
    {
        var reason = OrtRuntime.UnsupportedSystem(rid, is64BitLittleEndian: true);
        Assert.Contains(rid, reason, StringComparison.Ordinal);
        Assert.Contains(wayOut, reason, StringComparison.Ordinal);
    }

    [Fact]
    public void AProcessOf32Bits_IsRefused() => Assert.Contains("64-bit", OrtRuntime.UnsupportedSystem("win-x86", is64BitLittleEndian: false), StringComparison.Ordinal);

    [Fact]
    public void NativeCode_SeesThatTelemetryIsOff()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "On Windows .NET has no environment of its own.");
        OrtRuntime.Start(null, allowTelemetry: false);
        Assert.Equal(Environment.GetEnvironmentVariable("ORT_DISABLE_TELEMETRY"), Marshal.PtrToStringUTF8(GetEnv("ORT_DISABLE_TELEMETRY")));
        Assert.Equal("1", Environment.GetEnvironmentVariable("ORT_DISABLE_TELEMETRY"));
    }

    [LibraryImport("libc", EntryPoint = "getenv", StringMarshalling = StringMarshalling.Utf8)]
    private static partial nint GetEnv(string name);
}
