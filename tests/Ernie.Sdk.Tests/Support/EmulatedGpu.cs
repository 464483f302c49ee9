using System.Globalization;
using System.Reflection;
using Ernie.Sdk.Native;
using Ernie.Sdk.Operators;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.Tests.Support;

/// <summary>
/// GPUs of parts: the driver without a GPU, which runs the kernels' text by emulation, and a provider in the name of CUDA's with memory of that driver. Everything of the product but the provider and the hardware
/// is as on a GPU. Device memory is out of the reach of the CPU and of other GPUs. Tests that use it are of the collection <see cref="FakeCuda.Collection"/>.
/// </summary>
internal sealed class EmulatedGpu : IDisposable
{
    private const string Registration = "Ernie.Sdk.Tests.Gpu";
    private readonly TemporaryFolder _folder = new();

    /// <param name="count">How many GPUs there are: one to four, of 8 GiB each.</param>
    public EmulatedGpu(int count = 1)
    {
        Driver = new FakeCuda();
        Driver.Describe(count, bytes: 8L << 30);
        Driver.Emulate();
        var path = ProviderLibrary("libfakecudaprovider.so", $"-DDRIVER=\"{Driver.File}\"");
        Driver.Driver.Start();
        OrtEnv.Instance().RegisterExecutionProviderLibrary(Registration, path);
        Installation = Driver.Installation(_folder) with { Append = Append };
    }

    public FakeCuda Driver { get; }
    public CudaInstallation Installation { get; }

    public void Dispose()
    {
        OrtEnv.Instance().UnregisterExecutionProviderLibrary(Registration);
        _folder.Dispose();
    }

    /// <summary>The tests' provider, or skips where it cannot be compiled or there is a real one.</summary>
    public static string ProviderLibrary(string name, params IEnumerable<string> options)
    {
        OrtRuntime.Start(null, allowTelemetry: false);
        Assert.SkipWhen(OrtEnv.Instance().GetAvailableProviders().Contains(CudaOperatorEnvironment.CudaProvider), "This ONNX Runtime has a CUDA provider of its own.");
        var headers = typeof(EmulatedGpu).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>().FirstOrDefault(static a => a.Key == "OnnxRuntimeHeaders")?.Value;
        Assert.SkipUnless(Directory.Exists(headers), $"The package's headers are not at {headers}.");
        var folder = Path.Combine(SharedData.RepositoryRoot, "tests", "Ernie.Sdk.Tests", "Operators");
        return CompiledLibrary.Of(name, File.ReadAllText(Path.Combine(folder, "FakeExecutionProvider.c")), ["-I", headers!, "-I", folder, "-lm", .. options]);
    }

    /// <summary>Sessions of these options are the GPU's whose number is the setting <c>device_id</c>; the provider refuses one that is not there.</summary>
    private static void Append(SessionOptions options, Dictionary<string, string> settings)
    {
        var gpu = int.Parse(settings["device_id"], CultureInfo.InvariantCulture);
        var device = OrtEnv.Instance().GetEpDevices().Single(device => device.EpName == CudaOperatorEnvironment.CudaProvider && device.GetMemoryInfo(OrtDeviceMemoryType.DEFAULT).Id == gpu);
        options.AppendExecutionProvider(OrtEnv.Instance(), [device], settings);
    }
}
