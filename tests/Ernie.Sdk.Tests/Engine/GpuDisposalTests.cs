using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Tests.Chat;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>Models on an emulated GPU, on it and the CPU, and on two of them, that are disposed while requests run, and whose loading is given up: whatever moment it is, callers are told, and nothing is left on the GPU.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuDisposalTests(ITestOutputHelper output) : IDisposable
{
    private const int Moments = 5;
    /// <summary>Of a wait that would not end.</summary>
    private static readonly TimeSpan s_hang = TimeSpan.FromMinutes(5);

    private readonly LimitedGpu _gpu = new(count: 2);
    private readonly TemporaryFolder _folder = new();

    /// <summary>What of the model the GPU does not compute.</summary>
    public enum Away
    {
        Nothing,
        /// <summary>The CPU has some experts.</summary>
        Experts,
        /// <summary>The CPU has the first layers.</summary>
        Layers,
        /// <summary>Another GPU has the last layers.</summary>
        LastLayers,
    }

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose()
    {
        _gpu.Dispose();
        _folder.Dispose();
    }

    [Theory]
    [InlineData(Away.Nothing)]
    [InlineData(Away.Experts)]
    [InlineData(Away.Layers)]
    [InlineData(Away.LastLayers)]
    public async Task Disposed_WhileRequestsRun_TheyAreCompleteOrTold(Away away)
    {
        var path = await TinyModel.ExportedAsync();
        int[][] prompts = [LoadedModels.Ids(1, 140), [.. LimitedGpu.Prompt], LoadedModels.Ids(2, 10)];
        var log = new RecordedLog();
        List<int>[] expected;
        int launches;
        await using (var model = await Load(path, away, log))
        {
            launches = _gpu.Driver.Launches;
            expected = await Task.WhenAll(prompts.Select(prompt => LimitedGpu.Answer(model, prompt)));
            launches = _gpu.Driver.Launches - launches;
        }
        Assert.Equal(away is Away.Experts or Away.Layers, log.Lines.Any(static line => line.Contains("weights stay on the CPU", StringComparison.Ordinal)));
        Assert.Equal(away == Away.Layers, log.Lines.Any(static line => line.Contains("altogether", StringComparison.Ordinal)));
        _gpu.Driver.AssertNothingIsLeft();

        var (complete, told, partly) = (0, 0, 0);
        for (var moment = 0; moment <= Moments; moment++)
        {
            var model = await Load(path, away);
            var until = _gpu.Driver.Launches + launches * moment / Moments;
            var requests = prompts.Select(prompt => Task.Run(() => Collect(model, prompt), Token)).ToArray();
            while (_gpu.Driver.Launches < until && !Array.TrueForAll(requests, static request => request.IsCompleted)) await Task.Delay(1, Token);
            await Task.WhenAll(model.DisposeAsync().AsTask(), model.DisposeAsync().AsTask()).WaitAsync(s_hang, Token);
            foreach (var ((tokens, failure), wanted) in (await Task.WhenAll(requests).WaitAsync(s_hang, Token)).Zip(expected))
            {
                Assert.Equal(wanted.Take(tokens.Count), tokens);
                if (failure is not null) Assert.IsType<ObjectDisposedException>(failure);
                Assert.Equal(failure is null, tokens.Count == wanted.Count);
                if (failure is null) complete++;
                else told++;
                if (failure is not null && tokens.Count > 0) partly++;
            }
            await Assert.ThrowsAsync<ObjectDisposedException>(() => LimitedGpu.Answer(model, LimitedGpu.Prompt));
            _gpu.Driver.AssertNothingIsLeft();
        }
        output.WriteLine($"{complete} requests complete, {told} told, {partly} of them after some tokens");
        Assert.True(told > Moments / 2, $"{told}");
    }

    /// <summary>What copies blocks of the cache beside steps ends as well.</summary>
    [Theory]
    [InlineData(Away.Experts)]
    [InlineData(Away.Layers)]
    [InlineData(Away.LastLayers)]
    public async Task Disposed_WhileConversationsAreSavedAndForked_LeavesNothing(Away away)
    {
        var path = await TinyModel.ExportedAsync();
        for (var moment = 0; moment < Moments; moment++)
        {
            var model = await Load(path, away);
            var conversation = model.StartConversation();
            await conversation.ContinueAsync(LoadedModels.Ids(5, 20), new ErnieGenerationOptions { Temperature = 0, MaxTokens = 1 }, Token).ToListAsync(Token);
            var done = 0;
            var work = Task.Run(async () =>
            {
                while (true)
                {
                    await conversation.SaveAsync(_folder.File("saved"), Token);
                    Interlocked.Increment(ref done);
                    using var fork = await conversation.ForkAsync();
                    Interlocked.Increment(ref done);
                    using var restored = await model.RestoreConversationAsync(_folder.File("saved"), Token);
                    Interlocked.Increment(ref done);
                    await fork.ContinueAsync([3, 4], new ErnieGenerationOptions { Temperature = 0, MaxTokens = 1 }, Token).ToListAsync(Token);
                    Interlocked.Increment(ref done);
                }
            }, Token);
            while (Volatile.Read(ref done) < moment && !work.IsCompleted) await Task.Yield();
            await model.DisposeAsync().AsTask().WaitAsync(s_hang, Token);
            await Assert.ThrowsAsync<ObjectDisposedException>(() => work.WaitAsync(s_hang, Token));
            conversation.Dispose();
            _gpu.Driver.AssertNothingIsLeft();
        }
    }

    [Theory]
    [InlineData(Away.Nothing)]
    [InlineData(Away.Experts)]
    [InlineData(Away.Layers)]
    [InlineData(Away.LastLayers)]
    public async Task Loading_CancelledAtAnyReport_LeavesNothing(Away away)
    {
        var path = await TinyModel.ExportedAsync();
        var stages = new List<string>();
        await (await Load(path, away, progress: new DirectProgress<ErnieProgress>(report => stages.Add(report.Stage)))).DisposeAsync();
        _gpu.Driver.AssertNothingIsLeft();
        Assert.True(stages.Count(static stage => stage.StartsWith("sending weights to the GPU", StringComparison.Ordinal)) > 10, $"{stages.Count} reports");
        Assert.Equal("loaded", stages[^1]);
        for (var last = 1; last <= stages.Count; last += last < 4 || last > stages.Count - 4 ? 1 : 3)
        {
            using var source = CancellationTokenSource.CreateLinkedTokenSource(Token);
            var reports = 0;
            var cancelling = new DirectProgress<ErnieProgress>(_ =>
            {
                if (++reports == last) source.Cancel();
            });
            // Not a reason to take the CPU instead.
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Load(path, away, configure: static options => options.Device = ErnieDevice.Auto, progress: cancelling, cancellationToken: source.Token));
            // Nothing is sent after that.
            Assert.InRange(reports, last, last + 1);
            _gpu.Driver.AssertNothingIsLeft();

            reports = 0;
            var failing = new DirectProgress<ErnieProgress>(_ =>
            {
                if (++reports == last) throw new TimeoutException("the host's");
            });
            Assert.Equal("the host's", (await Assert.ThrowsAsync<TimeoutException>(() => Load(path, away, progress: failing))).Message);
            _gpu.Driver.AssertNothingIsLeft();
        }
        await using (var model = await Load(path, away)) Assert.Equal(4, (await LimitedGpu.Answer(model, LimitedGpu.Prompt)).Count);
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task TwoLoadsOfOneCheckpointAtOnce_ShareItsExport_AndAnswerAlike()
    {
        void Configure(ErnieModelOptions options) => (options.CacheDirectory, options.Export) = (_folder.File("cache"), ExportAs.BFloat16);
        var loads = Enumerable.Range(0, 2).Select(_ => Task.Run(() => _gpu.LoadAsync(TinyModel.Checkpoint, limit: null, configure: Configure), Token)).ToArray();
        try
        {
            var models = await Task.WhenAll(loads).WaitAsync(s_hang, Token);
            Assert.Equal(Assert.Single(Directory.GetDirectories(_folder.File("cache"))), Assert.Single(models.Select(static model => model.Path).Distinct()));
            await using var cpu = await _gpu.LoadOnCpuAsync(models[0].Path);
            int[][] prompts = [[.. LimitedGpu.Prompt], LoadedModels.Ids(1, 150)];
            var expected = await Task.WhenAll(prompts.Select(prompt => LimitedGpu.Answer(cpu, prompt)));
            var answers = await Task.WhenAll(models.SelectMany(model => prompts.Select(prompt => LimitedGpu.Answer(model, prompt))));
            for (var i = 0; i < answers.Length; i++) Assert.Equal(expected[i % prompts.Length], answers[i]);
        }
        finally
        {
            foreach (var load in loads)
            {
                await ((Task)load).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing | ConfigureAwaitOptions.ContinueOnCapturedContext);
                if (load.IsCompletedSuccessfully) await (await load).DisposeAsync();
            }
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    private long? Limit(string path, Away away) => away switch
    {
        Away.Experts => _gpu.WithoutExperts(path, LimitedGpu.ExpertsOfLayer + 3),
        Away.Layers => _gpu.WithoutLayers(path, 2),
        _ => _gpu.WithoutExperts(path, 0),
    };

    private Task<ErnieModel> Load(string path, Away away, RecordedLog? log = null, Action<ErnieModelOptions>? configure = null, IProgress<ErnieProgress>? progress = null, CancellationToken? cancellationToken = null) =>
        _gpu.LoadAsync(path, Limit(path, away), log, options =>
        {
            if (away == Away.LastLayers) options.GpuCount = 2;
            configure?.Invoke(options);
        }, progress, cancellationToken);

    private static async Task<(List<int> Tokens, Exception? Failure)> Collect(ErnieModel model, int[] prompt)
    {
        var tokens = new List<int>();
        try
        {
            await foreach (var token in model.GenerateAsync(prompt, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 4, IgnoreStopTokens = true }, Token)) tokens.Add(token);
            return (tokens, null);
        }
        catch (Exception e) when (e is not OperationCanceledException)
        {
            return (tokens, e);
        }
    }
}
