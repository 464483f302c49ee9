using System.Diagnostics;
using System.Globalization;
using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>Nothing else runs beside these tests: they measure the process.</summary>
[CollectionDefinition(nameof(WholeProcess), DisableParallelization = true)]
public sealed class WholeProcess;

[Collection(nameof(WholeProcess))]
public sealed class LifecycleTests(ITestOutputHelper output)
{
    private const string ChildVariable = "ERNIE_TEST_CHILD";
    private static readonly ErnieGenerationOptions s_endless = new() { Temperature = 0, IgnoreStopTokens = true };
    private static CancellationToken Token => TestContext.Current.CancellationToken;
    private static bool IsFull => Environment.GetEnvironmentVariable("ERNIE_FULL") == "1";

    [Fact]
    public async Task LoadChatDispose_ManyTimes_LeavesNothingBehind()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Reads /proc.");
        var (cycles, settled) = IsFull ? (1000, 100) : (60, 20);
        var clock = Stopwatch.StartNew();
        var (start, end) = (default(Footprint), default(Footprint));
        string? first = null;
        for (var cycle = 1; cycle <= cycles; cycle++)
        {
            await using (var model = await TinyModel.LoadAsync())
            {
                using var client = model.AsChatClient();
                var answer = await client.GetResponseAsync("Who are you?", new() { Temperature = 0, MaxOutputTokens = 8 }, Token);
                Assert.Equal(first ??= answer.Text, answer.Text);
            }
            if (cycle != settled && cycle != cycles && cycle % 100 != 0 && cycle != 1) continue;
            end = Footprint.Measure();
            if (cycle == settled) start = end;
            output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"after {cycle,4}: {clock.Elapsed.TotalSeconds:F1} s, {end}"));
        }
        Assert.InRange(end.ResidentBytes - start.ResidentBytes, long.MinValue, 24 << 20);
        Assert.InRange(end.Handles - start.Handles, int.MinValue, 8);
        Assert.InRange(end.Threads - start.Threads, int.MinValue, 8);
        // The runtime's own allocator adds some as it ages.
        Assert.InRange(end.Mappings - start.Mappings, int.MinValue, IsFull ? 400 : 100);
    }

    [Fact]
    public async Task Dispose_TwiceAndFromManyThreads_IsHarmless()
    {
        using var export = new SmallExport();
        for (var round = 0; round < 10; round++)
        {
            var model = await export.LoadAsync();
            var stream = ConsumeAsync(model.GenerateAsync([1, 2, 3], s_endless, Token));
            await Task.WhenAll(Enumerable.Range(0, 4).Select(i => i % 2 == 0 ? Task.Run(model.Dispose, Token) : model.DisposeAsync().AsTask()));
            await Assert.ThrowsAnyAsync<ObjectDisposedException>(() => stream);
            model.Dispose();
            await model.DisposeAsync();
        }
    }

    [Fact]
    public async Task Dispose_BeforeFirstUse_IsHarmless()
    {
        using var export = new SmallExport();
        var model = await export.LoadAsync();
        var client = model.AsChatClient();
        model.Dispose();
        await Assert.ThrowsAsync<ObjectDisposedException>(() => client.GetResponseAsync("x", cancellationToken: Token));
        await Assert.ThrowsAsync<ObjectDisposedException>(() => ConsumeAsync(model.GenerateAsync([1], null, Token)));
        client.Dispose();
    }

    [Fact]
    public async Task Dispose_DuringAStream_EndsItWithObjectDisposedException()
    {
        using var model = await TinyModel.LoadAsync();
        using var client = model.AsChatClient();
        var options = new ChatOptions { Temperature = 0, RawRepresentationFactory = static _ => new ErnieGenerationOptions { IgnoreStopTokens = true } };
        await using var stream = client.GetStreamingResponseAsync("Who are you?", options, Token).GetAsyncEnumerator(Token);
        Assert.True(await stream.MoveNextAsync());
        model.Dispose();
        await Assert.ThrowsAsync<ObjectDisposedException>(async () =>
        {
            while (await stream.MoveNextAsync())
            {
            }
        });
    }

    [Fact]
    public async Task Dispose_DuringALongPrefill_Returns_WithinAKernelsTime()
    {
        using var model = await TinyModel.LoadAsync(static o => o.PrefillChunkTokens = 8192);
        var prompt = Enumerable.Range(0, 40_000).Select(static i => 20 + i % 1000).ToArray();
        var stream = ConsumeAsync(model.GenerateAsync(prompt, s_endless, Token));
        while (model.KvBlocks.Free == model.KvBlocks.All && !stream.IsCompleted) await Task.Yield();
        var clock = Stopwatch.StartNew();
        model.Dispose();
        output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"disposed in {clock.Elapsed.TotalMilliseconds:F0} ms, of a step of 8,192 tokens"));
        Assert.InRange(clock.Elapsed.TotalSeconds, 0, 5);
        await Assert.ThrowsAnyAsync<ObjectDisposedException>(() => stream);
    }

    [Fact]
    public async Task AChatClient_DoesNotOwnItsModel()
    {
        using var export = new SmallExport();
        var model = await export.LoadAsync();
        var client = model.AsChatClient();
        client.Dispose();
        client.Dispose();
        Assert.NotEmpty((await client.GetResponseAsync("x", new() { MaxOutputTokens = 2 }, Token)).Messages);
        Assert.Same(client, model.AsChatClient());
        model.Dispose();
        client.Dispose();
    }

    [Fact]
    public async Task TwoModels_AnswerAsEachAlone()
    {
        using var export = new SmallExport();
        using var tiny = await TinyModel.LoadAsync();
        using var small = await export.LoadAsync();
        var prompts = Enumerable.Range(1, 8).Select(static i => new[] { i, 2 * i, 30 + i }).ToArray();
        var options = new ErnieGenerationOptions { Temperature = 0, IgnoreStopTokens = true, MaxTokens = 12 };
        var alone = new List<List<int>>();
        foreach (var model in new[] { tiny, small })
        {
            foreach (var prompt in prompts) alone.Add(await model.GenerateAsync(prompt, options, Token).ToListAsync(Token));
        }
        var together = await Task.WhenAll(new[] { tiny, small }.SelectMany(model => prompts.Select(prompt => model.GenerateAsync(prompt, options, Token).ToListAsync(Token).AsTask())));
        Assert.Equal(alone, together);
    }

    [Fact]
    public async Task FirstLoads_AtTheSameTime_AllSucceed() => await RunChildAsync(nameof(Child_LoadsAtTheSameTime));

    [Fact]
    public async Task Sessions_SurviveTheGarbageCollector()
    {
        using var export = new SmallExport();
        var models = await Task.WhenAll(Enumerable.Range(0, 3).Select(_ => export.LoadAsync()));
        var options = new ErnieGenerationOptions { Temperature = 0, IgnoreStopTokens = true, MaxTokens = 200 };
        var expected = await models[0].GenerateAsync([3, 4, 5], options, Token).ToListAsync(Token);
        var answers = Task.WhenAll(models.Select(model => model.GenerateAsync([3, 4, 5], options, Token).ToListAsync(Token).AsTask()));
        var collections = 0;
        while (!answers.IsCompleted)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
            collections++;
            // Loading and dropping beside it: sessions, domains and pools come and go while others compute.
            if (collections % 5 == 0) (await export.LoadAsync()).Dispose();
        }
        Assert.All(await answers, answer => Assert.Equal(expected, answer));
        foreach (var model in models) model.Dispose();
        output.WriteLine($"{collections} collections");
    }

    [Fact]
    public async Task Loading_CancelledAtOnce_DoesNotLoad()
    {
        using var export = new SmallExport();
        using var cancelled = new CancellationTokenSource();
        await cancelled.CancelAsync();
        var e = await Assert.ThrowsAnyAsync<OperationCanceledException>(() => ErnieModel.LoadAsync(export.Folder, null, null, cancelled.Token));
        Assert.Equal(cancelled.Token, e.CancellationToken);
        using var late = new CancellationTokenSource();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => ErnieModel.LoadAsync(export.Folder, new() { KvCacheBytes = 4 << 20 }, new DirectProgress<ErnieProgress>(_ => late.Cancel()), late.Token));
    }

    [Fact]
    public async Task Options_ChangedAfterTheCall_HaveNoEffect()
    {
        using var export = new SmallExport();
        var options = new ErnieModelOptions { KvCacheBytes = 4 << 20, ContextLength = 100, Threads = 1 };
        var loading = ErnieModel.LoadAsync(export.Folder, options, cancellationToken: Token);
        (options.ContextLength, options.Threads, options.MaxConcurrentRequests, options.Export) = (-1, -1, -1, null!);
        using var model = await loading;
        Assert.Equal(100, model.ContextLength);
    }

    [Fact]
    public async Task ALoggerThatThrows_FailsTheLoad_NotTheProcess()
    {
        using var export = new SmallExport();
        using var loggers = new ThrowingLoggers();
        await Assert.ThrowsAsync<FormatException>(() => ErnieModel.LoadAsync(export.Folder, new() { KvCacheBytes = 4 << 20, LoggerFactory = loggers }, cancellationToken: Token));
    }

    [Fact]
    public async Task AModelThatIsNeverDisposed_LetsTheProcessEnd() => await RunChildAsync(nameof(Child_NeverDisposes));

    [Fact]
    public async Task AFailingLoad_PrintsNothing()
    {
        using var export = new SmallExport();
        await RunChildAsync(nameof(Child_LoadFails), export.Folder);
    }

    // The other half of tests above, in a process of its own.

    [Fact]
    public async Task Child_NeverDisposes()
    {
        Assert.SkipUnless(Environment.GetEnvironmentVariable(ChildVariable) is not null, "Part of another test.");
        var model = await TinyModel.LoadAsync();
        // The engine is inside a step when the process ends.
        var stream = model.GenerateAsync([.. Enumerable.Range(20, 1500)], s_endless, CancellationToken.None).GetAsyncEnumerator(CancellationToken.None);
        Assert.True(await stream.MoveNextAsync());
    }

    [Fact]
    public async Task Child_LoadsAtTheSameTime()
    {
        Assert.SkipUnless(Environment.GetEnvironmentVariable(ChildVariable) is not null, "Part of another test.");
        using var export = new SmallExport();
        var models = await Task.WhenAll(Enumerable.Range(0, 8).Select(_ => export.LoadAsync()));
        foreach (var model in models) model.Dispose();
    }

    [Fact]
    public void Child_LoadFails()
    {
        if (Environment.GetEnvironmentVariable(ChildVariable) is not { } folder)
        {
            Assert.Skip("Part of another test.");
            return;
        }
        // Past the checks on purpose: ONNX Runtime itself shall find the fault.
        OrtRuntime.Start(null, allowTelemetry: false);
        var manifest = ModelManifest.Read(folder);
        File.WriteAllBytes(Path.Combine(folder, ModelManifest.ModelFile), [1, 2, 3]);
        Assert.Throws<InvalidDataException>(() => new ModelRunner(folder, manifest, KvElementType.Float32, 4, 1, KernelRegistry.Choose()));
    }

    /// <summary>Runs one test of this class in a child; it must succeed, end, and print nothing to standard error.</summary>
    private static async Task RunChildAsync(string method, string argument = "1")
    {
        var assembly = typeof(LifecycleTests).Assembly.Location;
        var (exitCode, text, error) = await ChildProcess.RunAsync("dotnet", ["exec", assembly, "-method", $"{typeof(LifecycleTests).FullName}.{method}", "-noColor"], environment: new Dictionary<string, string> { [ChildVariable] = argument });
        Assert.True(exitCode == 0, $"exit code {exitCode}\n{text}\n{error}");
        Assert.Equal("", error);
        Assert.Matches("Failed: 0, Skipped: 0", text);
    }

    private static async Task ConsumeAsync(IAsyncEnumerable<int> stream)
    {
        await foreach (var _ in stream)
        {
        }
    }

    private readonly record struct Footprint(long ResidentBytes, int Handles, int Threads, int Mappings)
    {
        public static Footprint Measure()
        {
            for (var i = 0; i < 2; i++)
            {
                GC.Collect();
                GC.WaitForPendingFinalizers();
            }
            var resident = long.Parse(File.ReadAllText("/proc/self/statm").Split(' ')[1], CultureInfo.InvariantCulture) * Environment.SystemPageSize;
            return new Footprint(resident, Directory.GetFileSystemEntries("/proc/self/fd").Length, Directory.GetDirectories("/proc/self/task").Length, File.ReadLines("/proc/self/maps").Count());
        }

        public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{ResidentBytes / 1e6:F1} MB resident, {Handles} handles, {Threads} threads, {Mappings} mappings");
    }

    private sealed class ThrowingLoggers : ILoggerFactory, ILogger
    {
        public ILogger CreateLogger(string categoryName) => this;
        public void AddProvider(ILoggerProvider provider) { }
        public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;
        public bool IsEnabled(LogLevel logLevel) => true;
        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) => throw new FormatException("A broken logger.");
        public void Dispose() { }
    }
}
