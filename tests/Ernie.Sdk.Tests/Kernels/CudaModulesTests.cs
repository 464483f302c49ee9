using System.Text;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Tests.Kernels;

[Collection(FakeCuda.Collection)]
public sealed class CudaModulesTests
{
    private readonly FakeCuda _fake = new();
    private readonly List<(string File, string Target)> _asked = [];

    [Theory]
    [InlineData(8, 0, "sm_80")]
    [InlineData(8, 9, "sm_80")]
    [InlineData(9, 0, "sm_90a")]
    [InlineData(10, 0, "sm_80")]
    [InlineData(12, 0, "sm_80")]
    public void Gpu_GetsTheBestTargetThatItRuns(int major, int minor, string target)
    {
        _fake.Describe(major: major, minor: minor);
        using (var context = _fake.Device().Retain())
        using (var modules = new CudaModules(context, Open))
        {
            Assert.Equal("scale", modules.Function("plain", "scale").Name);
            modules.Function("plain", "scale");
            Assert.Equal([("plain", target)], _asked);
            Assert.Equal(1, _fake.Live(FakeCuda.Modules));
        }
        _fake.AssertNothingIsLeft();
    }

    [Theory]
    [InlineData("attention")]
    [InlineData("experts")]
    [InlineData("linear")]
    [InlineData("norm")]
    [InlineData("sampling")]
    public void KernelsOfTheAssembly_ReachTheDriver(string file)
    {
        using var context = _fake.Device().Retain();
        using var modules = new CudaModules(context);
        modules.Function(file, "scale");
        Assert.Equal(1, _fake.Live(FakeCuda.Modules));
    }

    [Theory]
    [InlineData(9, 0, true)]
    [InlineData(8, 0, false)]
    [InlineData(10, 0, false)]
    public void OnlyKernelsThatWaitThemselves_Overlap(int major, int minor, bool overlaps)
    {
        _fake.Describe(major: major, minor: minor);
        using var context = _fake.Device().Retain();
        using var modules = new CudaModules(context) { Overlaps = true };
        Assert.Equal(overlaps, modules.Function("norm", "scale").Overlaps);
        using var plain = new CudaModules(context);
        Assert.False(plain.Function("norm", "scale").Overlaps);
    }

    [Fact]
    public void FileForEarlierGpusOnly_RunsOnHopperToo()
    {
        using var context = _fake.Device().Retain();
        using var modules = new CudaModules(context, (file, target) => target == "sm_80" ? Open(file, target) : null);
        modules.Function("plain", "scale");
        Assert.Equal([("plain", "sm_80")], _asked);
    }

    [Fact]
    public void WhatIsMissingOrDoesNotCompile_IsNamed()
    {
        using var context = _fake.Device().Retain();
        using var modules = new CudaModules(context, Open);
        Assert.Contains("sm_90a or sm_80", Assert.Throws<InvalidOperationException>(() => modules.Function("none", "scale")).Message, StringComparison.Ordinal);
        var e = Assert.Throws<CudaException>(() => modules.Function("broken", "scale"));
        Assert.StartsWith("cuModuleLoadDataEx of broken.sm_90a.ptx failed: CUDA_ERROR_INVALID_PTX (218), ptxas application", e.Message, StringComparison.Ordinal);
        Assert.Contains("'other'", Assert.Throws<CudaException>(() => modules.Function("plain", "other")).Message, StringComparison.Ordinal);
        // The file is not compiled again for its next kernel.
        modules.Function("plain", "scale");
        Assert.Equal(1, _fake.Live(FakeCuda.Modules));
    }

    private MemoryStream? Open(string file, string target)
    {
        if (file == "none") return null;
        _asked.Add((file, target));
        return new MemoryStream(Encoding.ASCII.GetBytes(file == "broken" ? "syntax error" : ".version 8.0"));
    }
}
