using Ernie.Cli.Doctor;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Native;
using Ernie.Sdk.Operators;
using Ernie.Sdk.Tests.Cli;
using Microsoft.Extensions.Logging;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>What a model computes on, with each piece of CUDA taken away in turn. Libraries are compiled for the test; the driver has no GPU behind it.</summary>
[Collection(FakeCuda.Collection)]
public sealed class DeviceTests : IAsyncLifetime
{
    private readonly TemporaryFolder _folder = new();
    private string _model = "";

    public async ValueTask InitializeAsync() => _model = await TinyModel.ExportedAsync();

    public ValueTask DisposeAsync()
    {
        _folder.Dispose();
        return ValueTask.CompletedTask;
    }

    [Fact]
    public async Task Cpu_IsTheDefault_AndAsksNothingOfCuda()
    {
        var nowhere = new CudaInstallation("/nowhere/libcuda.so.1", [], "/nowhere");
        await using var model = await ErnieModel.LoadAsync(_model, new ErnieModelOptions { KvCacheBytes = 4 << 20, Installation = nowhere }, cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal(ErnieDevice.Cpu, new ErnieModelOptions().Device);
        Assert.Throws<ArgumentOutOfRangeException>(static () => new ErnieModelOptions { Device = (ErnieDevice)3 }.Validate());
    }

    [Fact]
    public async Task Cuda_WhereTheProviderDoesNotStart_SaysSo()
    {
        Assert.SkipWhen(OrtEnv.Instance().GetAvailableProviders().Contains(CudaOperatorEnvironment.CudaProvider), "This ONNX Runtime has a CUDA provider.");
        // All pieces are found, but this ONNX Runtime is built without CUDA.
        FakeCuda? fake = null;
        var e = await Failure(Installation(f => fake = f));
        Assert.Equal("ONNX Runtime package", e.Piece);
        Assert.Contains("does not start", e.Message, StringComparison.Ordinal);
        Assert.Contains("ernie doctor", e.Cure, StringComparison.Ordinal);
        fake!.AssertNothingIsLeft();
    }

    [Fact]
    public async Task Auto_TakesTheCpu_AndSaysWhy()
    {
        Assert.SkipWhen(OrtEnv.Instance().GetAvailableProviders().Contains(CudaOperatorEnvironment.CudaProvider), "This ONNX Runtime has a CUDA provider.");
        foreach (var (create, reason) in new (Func<CudaInstallation>, string)[]
        {
            (() => Installation(static fake => fake.Describe(bytes: 1 << 20)), "GPU memory"),
            (() => Installation() with { Driver = "/nowhere/libcuda.so.1" }, "libcuda.so.1 was not found, looked for in /nowhere"),
            // Everything is found, but this ONNX Runtime is built without CUDA.
            (() => Installation(), "does not start"),
        })
        {
            var installation = create();
            var log = new Lines();
            await using var model = await ErnieModel.LoadAsync(_model, new ErnieModelOptions { Device = ErnieDevice.Auto, KvCacheBytes = 4 << 20, Installation = installation, LoggerFactory = log }, cancellationToken: TestContext.Current.CancellationToken);
            Assert.Contains(log.All, line => line.Contains("the CPU, because", StringComparison.Ordinal) && line.Contains(reason, StringComparison.Ordinal));
        }
    }

    [Theory]
    [InlineData(0, "CUDA runtime", "libcudart.so.13")]
    [InlineData(1, "cuBLAS", "libcublas.so.13")]
    [InlineData(2, "cuBLAS Lt", "libcublasLt.so.13")]
    [InlineData(3, "cuRAND", "libcurand.so.10")]
    public async Task LibraryThatIsMissing_IsNamed_WithItsPlaceAndCure(int index, string piece, string file)
    {
        var all = Installation();
        var libraries = all.Libraries.ToList();
        libraries[index] = (libraries[index].Name, "/nowhere/" + file);
        var e = await Failure(all with { Libraries = libraries });
        Assert.Equal(piece, e.Piece);
        Assert.Contains($"{file} was not found, looked for in /nowhere.", e.Message, StringComparison.Ordinal);
        Assert.Contains("LD_LIBRARY_PATH", e.Cure, StringComparison.Ordinal);
    }

    [Fact]
    public async Task CpuPackage_IsNamed()
    {
        var e = await Failure(Installation() with { ProviderFolder = _folder.Path });
        Assert.Equal("ONNX Runtime package", e.Piece);
        Assert.Contains(_folder.Path, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Driver_MissingOrOld_IsNamed()
    {
        var e = await Failure(Installation() with { Driver = "libnone-cuda.so.1" });
        Assert.Equal("GPU driver", e.Piece);
        Assert.Contains("LD_LIBRARY_PATH", e.Message, StringComparison.Ordinal);
        e = await Failure(Installation() with { Driver = CompiledLibrary.Of("liboldcuda.so.1", "int cuInit(unsigned f) { return 0; }") });
        Assert.Contains("cuDriverGetVersion", e.Message, StringComparison.Ordinal);
        e = await Failure(Installation(static fake => fake.Describe(version: 12080)));
        Assert.Contains("CUDA 12.8", e.Message, StringComparison.Ordinal);
        Assert.Contains("driver 580", e.Cure, StringComparison.Ordinal);
        e = await Failure(Installation(static fake => fake.Fail("cuInit", CudaResult.SystemDriverMismatch)));
        Assert.Equal("GPU driver", e.Piece);
        Assert.Contains("(803)", e.Message, StringComparison.Ordinal);
        await File.WriteAllTextAsync(_folder.File("libcuda.so.1"), "no library", TestContext.Current.CancellationToken);
        Assert.Equal("GPU driver", (await Failure(Installation() with { Driver = _folder.File("libcuda.so.1") })).Piece);
    }

    [Fact]
    public async Task Gpu_MissingOrOld_IsNamed()
    {
        var e = await Failure(Installation(static fake => fake.Describe(count: 0)));
        Assert.Equal("GPU", e.Piece);
        Assert.Contains("CUDA_VISIBLE_DEVICES", e.Cure, StringComparison.Ordinal);
        e = await Failure(Installation(static fake => fake.Describe(major: 7, minor: 5)));
        Assert.Equal("GPU", e.Piece);
        Assert.Contains("sm_75", e.Message, StringComparison.Ordinal);
        Assert.Contains("8.0", e.Cure, StringComparison.Ordinal);
        e = await Failure(Installation(static fake => fake.Fail("cuDeviceGetAttribute", (CudaResult)700)));
        Assert.Contains("CUDA_ERROR_ILLEGAL_ADDRESS", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task LittleMemory_IsTold_WithWhatTheModelTakes()
    {
        var e = await Failure(Installation(static fake => fake.Describe(bytes: 1 << 20)));
        Assert.Equal("GPU memory", e.Piece);
        Assert.Contains("1,048,576 bytes free", e.Message, StringComparison.Ordinal);
        // The last of five layers without its routed experts, the tied embedding as head, and its norm.
        var (config, formats) = ErniePlan.Read(_model, new ErnieExportOptions());
        var all = MemoryPlan.For(config, formats, Sdk.Kernels.KvElementType.BFloat16, 128);
        var weights = all.AttentionBytes / 5 + (all.SharedExpertBytes + all.RouterBytes) / 4 + 3 * all.NormBytes / 11 + all.EmbeddingBytes;
        Assert.Contains("with all layers but the last on the CPU the model still takes at least", e.Message, StringComparison.Ordinal);
        Assert.Contains($"{weights:N0} of weights", e.Message, StringComparison.Ordinal);
        e = await Failure(Installation(static fake => fake.Fail("cuDevicePrimaryCtxRetain", CudaResult.OutOfMemory)));
        Assert.Contains("CUDA_ERROR_OUT_OF_MEMORY", e.Message, StringComparison.Ordinal);
        // To the byte, beside the reserve; a longer context is what does not fit.
        var least = ErniePlan.ForModel(_model, new ErniePlanOptions { GpuBytes = 1, ReserveBytes = 0, ContextLength = 128, Requests = 1 }).LeastBytes;
        var total = least + ErniePlan.ReserveOf(least);
        while (total - ErniePlan.ReserveOf(total) < least) total++;
        ErnieModelOptions One(int? context = null) => new() { Device = ErnieDevice.Cuda, MaxConcurrentRequests = 1, ContextLength = context };
        var installation = Installation(fake => fake.Describe(bytes: total));
        Assert.Equal(32, DeviceChoice.Resolve(_model, One(), installation, null)!.Plan.CpuExperts.Values.Sum());
        Assert.Equal("GPU memory", (await Failure(installation, One(131072))).Piece);
        Assert.Equal("GPU memory", (await Failure(Installation(fake => fake.Describe(bytes: total - 1)), One())).Piece);
    }

    [Fact]
    public void Checks_LeaveNoContext()
    {
        FakeCuda? fake = null;
        var installation = Installation(f => fake = f);
        for (var i = 0; i < 50; i++) Assert.NotNull(DeviceChoice.Resolve(_model, new ErnieModelOptions { Device = ErnieDevice.Cuda }, installation, null));
        fake!.AssertNothingIsLeft();
    }

    [Fact]
    public void Doctor_FindsWhatLoadingFinds()
    {
        var findings = GpuFindings.All(Installation()).ToDictionary(static f => f.Name);
        Assert.All(findings.Values, static f => Assert.Equal(FindingState.Fine, f.State));
        Assert.Contains("CUDA 13.0", findings["GPU driver"].Text, StringComparison.Ordinal);
        Assert.Equal("Fake GPU 0 (sm_90, 8.0 GiB)", findings["GPU"].Text);
        findings = GpuFindings.All(Installation(static fake => fake.Describe(major: 6))).ToDictionary(static f => f.Name);
        Assert.Equal(FindingState.Poor, findings["GPU"].State);
    }

    [Fact]
    public async Task CommandLine_FailsOnCuda_AndGoesOnWithAuto()
    {
        Assert.SkipWhen(CudaInstallation.Default.Pieces().All(static piece => piece.State == CudaPieceState.Present), "This machine has all of CUDA.");
        var run = await CommandRun.Async("""{"ids": [5, 6]}""", ["generate", _model, "--device", "cuda", "--max-tokens", "2"]);
        Assert.Equal(Ernie.Cli.ExitCode.BadInput, run.ExitCode);
        Assert.StartsWith("ernie: The model cannot run on a GPU.", run.Error, StringComparison.Ordinal);
        Assert.Empty(run.Out);
        run = (await CommandRun.Async("""{"ids": [5, 6]}""", ["generate", _model, "--device", "auto", "--max-tokens", "2", "--log-level", "information"])).Succeeded();
        Assert.Contains("Device: the CPU", run.Error, StringComparison.Ordinal);
    }

    /// <summary>Everything that a GPU needs, and a driver without one.</summary>
    private CudaInstallation Installation(Action<FakeCuda>? change = null)
    {
        var fake = new FakeCuda();
        fake.Describe(bytes: 8L << 30);
        change?.Invoke(fake);
        return fake.Installation(_folder);
    }

    private async Task<ErnieDeviceException> Failure(CudaInstallation installation, ErnieModelOptions? options = null)
    {
        options ??= new ErnieModelOptions();
        (options.Device, options.Installation) = (ErnieDevice.Cuda, installation);
        return await Assert.ThrowsAsync<ErnieDeviceException>(() => ErnieModel.LoadAsync(_model, options, cancellationToken: TestContext.Current.CancellationToken));
    }

    private sealed class Lines : ILoggerFactory, ILogger
    {
        public List<string> All { get; } = [];
        public ILogger CreateLogger(string categoryName) => this;
        public void AddProvider(ILoggerProvider provider) { }
        public void Dispose() { }
        public bool IsEnabled(LogLevel logLevel) => true;
        public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            lock (All) All.Add(formatter(state, exception));
        }
    }
}
