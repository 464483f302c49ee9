using Ernie.Sdk.GpuTests;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Tests.GpuTests;

/// <summary>The program that checks and measures on a real GPU, over the emulated one: it works, and sees what is wrong.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuTestProgramTests(ITestOutputHelper output)
{
    [Fact]
    public async Task Kernels_PassOnTheEmulatedGpu()
    {
        var driver = new FakeCuda();
        driver.Describe(bytes: 8L << 30);
        driver.Emulate();
        using var folder = new TemporaryFolder();
        var (code, rows, text) = await Run(driver.Installation(folder), folder, "--stage", "kernels");
        Assert.True(code == 0, text);
        Assert.Equal(GpuTestProgram.Pieces.Where(static piece => piece.Stage == "kernels").Select(static piece => piece.Name), rows.Select(static row => row.Piece).Distinct());
        driver.AssertNothingIsLeft();
    }

    private async Task<(int Code, IReadOnlyList<Row> Rows, string Text)> Run(CudaInstallation installation, TemporaryFolder folder, params string[] arguments)
    {
        var text = new StringWriter();
        var json = folder.File("report.json");
        var code = await new GpuTestProgram(installation, text, text).RunAsync(["--in-process", "--tiny", "--json", json, "--work", folder.File("work"), .. arguments]);
        output.WriteLine(text.ToString());
        return (code, Report.Read(json), text.ToString());
    }
}
