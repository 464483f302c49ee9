using Ernie.Sdk.Engine;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Tests.Chat;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>
/// An emulated GPU that fails one call while decode steps are captured as graphs, or replayed: each call in turn. The request ends with an exception or goes on without graphs, the next one is answered, and nothing is left.
/// </summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuGraphFaultTests(ITestOutputHelper output) : IDisposable
{
    private const CudaResult IllegalAddress = (CudaResult)700;
    private static readonly int[] s_prompt = [1, 17, 33, 5];

    private EmulatedGpu _gpu = new();
    private readonly TemporaryFolder _folder = new();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    private string Model => _folder.File("model");

    public void Dispose()
    {
        _gpu.Dispose();
        _folder.Dispose();
    }

    /// <param name="step">The first step that decodes is run, captured and replayed; the second is replayed.</param>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task EachCallThatFails_EndsTheRequestOrTheGraphs_AndTheNextAnswerIsRight(int step)
    {
        new TinyCheckpoint { Experts = 4, HeadDim = 16 }.Write(_folder.File("checkpoint"));
        await ErnieExporter.ExportAsync(_folder.File("checkpoint"), Model, ExportAs.BFloat16, cancellationToken: Token);
        List<(int, float)> expected;
        await using (var model = await Load(graphs: false)) expected = await Answer(model);

        // Between what is told of two steps lie the choice of a token after the first, and the second.
        var seen = new List<int>();
        await using (var model = await Load(graphs: true, observer: () => seen.Add(_gpu.Driver.Calls.Length)))
        {
            Assert.Equal(expected, await Answer(model));
            Assert.Equal((1, 2), _gpu.Driver.Graphs);
        }
        _gpu.Driver.AssertNothingIsLeft();
        var calls = _gpu.Driver.Calls[seen[step - 1]..seen[step]];
        output.WriteLine(string.Join(", ", calls.CountBy(static call => call).Select(static c => $"{c.Value} {c.Key}")));
        Assert.Contains("cuMemcpyHtoDAsync_v2", calls);
        Assert.Equal(step == 1, calls.Count(static call => call == "cuLaunchKernel") > 30);

        var outcomes = new Dictionary<string, int>();
        for (var i = 0; i < calls.Length; i++)
        {
            var nth = calls[..(i + 1)].Count(call => call == calls[i]);
            foreach (var result in new[] { IllegalAddress, CudaResult.OutOfMemory })
            {
                if (result == CudaResult.OutOfMemory && calls[i] is not ("cuMemAlloc_v2" or "cuMemHostRegister_v2" or "cuMemcpyHtoDAsync_v2")) continue;
                var outcome = await FailAsync(calls[i], nth, step, result, expected);
                outcomes[outcome] = outcomes.GetValueOrDefault(outcome) + 1;
            }
        }
        output.WriteLine(string.Join(", ", outcomes.Select(static o => $"{o.Value} x {o.Key}")));
        Assert.True(outcomes.GetValueOrDefault("graphs off") > 0 || step == 2);
        Assert.True(outcomes.GetValueOrDefault("request failed") > 0);
    }

    /// <summary>A text with logits of every token had no room for them, and the room that there was is gone: the step of two sequences that is to be captured wants more than a step of one has taken since.</summary>
    [Fact]
    public async Task LogitsThatHaveNoRoom_LeaveNothingOfTheGraph()
    {
        new TinyCheckpoint { Experts = 4, HeadDim = 16 }.Write(_folder.File("checkpoint"));
        await ErnieExporter.ExportAsync(_folder.File("checkpoint"), Model, ExportAs.BFloat16, cancellationToken: Token);
        var manifest = ModelManifest.Read(Model);
        var gpu = DeviceChoice.Resolve(Model, new ErnieModelOptions { Device = ErnieDevice.Cuda, KvCacheType = ErnieKvCacheType.Float32, PrefillChunkTokens = 128, MaxConcurrentRequests = 2 }, _gpu.Installation, null)!;
        var answers = new List<float[]>();
        foreach (var fails in new[] { false, true })
        {
            using (var runner = new ModelRunner(Model, manifest, KvElementType.Float32, 2, 1, model => [new GpuDevice(gpu, 0, model, KernelRegistry.Choose(), 1, capturesSteps: true, overlaps: false)]))
            {
                int[][] tables = [[runner.Cache.Allocate()], [runner.Cache.Allocate()]];
                if (fails) Fails(1, Batch((s_prompt, 0, tables[0], s_prompt.Length)));
                foreach (var table in tables) runner.Run(Batch((s_prompt, 0, table, 1)));
                var decode = Batch(([7], s_prompt.Length, tables[0], 1), ([9], s_prompt.Length, tables[1], 1));
                // First the numbers of the graph, then its logits.
                if (fails) Fails(2, decode);
                answers.Add([.. runner.Run(decode)]);
                Assert.True(runner.UsesGraphs);

                void Fails(int nth, StepBatch batch)
                {
                    _gpu.Driver.Fail("cuMemAlloc_v2", CudaResult.OutOfMemory, nth);
                    Assert.Throws<InsufficientMemoryException>(() => { runner.Run(batch); });
                }
            }
            _gpu.Driver.AssertNothingIsLeft();
        }
        TensorAssert.SameBits(answers[0], answers[1], "logits");
        Assert.Equal(2, _gpu.Driver.Graphs.Captured);

        static StepBatch Batch(params (int[] Ids, int Position, int[] Table, int Logits)[] sequences)
        {
            var batch = new StepBatch();
            foreach (var (ids, position, table, logits) in sequences) batch.Add(ids, position, table, position > 0 ? SequenceFlags.Decode : SequenceFlags.None, SparseLimits.Dense, logits);
            return batch;
        }
    }

    private async Task<string> FailAsync(string call, int nth, int step, CudaResult result, List<(int, float)> expected)
    {
        // The emulation has room for some dozens of graphs.
        _gpu.Dispose();
        _gpu = new EmulatedGpu();
        var what = $"{result} of {call} {nth} in step {step}";
        var steps = 0;
        using var log = new RecordedLog();
        var outcome = "nothing";
        await using (var model = await Load(graphs: true, log, () =>
        {
            if (++steps == step) _gpu.Driver.Fail(call, result, nth);
        }))
        {
            try
            {
                Assert.Equal(expected, await Answer(model));
            }
            catch (Exception e) when (e is InvalidOperationException or InsufficientMemoryException)
            {
                outcome = "request failed";
                Assert.True(e.Message.Contains("step", StringComparison.Ordinal), $"{what}: {e}");
            }
            if (log.Lines.Any(static line => line.Contains("CUDA graphs are off", StringComparison.Ordinal)))
            {
                Assert.True(outcome == "nothing", $"{what} ended the request and the graphs");
                outcome = "graphs off";
            }
            Assert.True(outcome != "nothing", $"{what} was not noticed");
            // The engine looks at its blocks before the next call.
            await model.ClearPrefixCacheAsync();
            Assert.Equal(model.KvBlocks.All, model.KvBlocks.Free);
            var again = await Answer(model);
            Assert.True(expected.SequenceEqual(again), $"{what}: another answer after it");
        }
        Assert.True(Enumerable.Range(0, 7).All(kind => _gpu.Driver.Live(kind) == 0), $"{what}: {string.Join(' ', Enumerable.Range(0, 7).Select(_gpu.Driver.Live))} left");
        return outcome;
    }

    private Task<ErnieModel> Load(bool graphs, RecordedLog? log = null, Action? observer = null) => ErnieModel.LoadAsync(Model, new ErnieModelOptions
    {
        Device = ErnieDevice.Cuda, Installation = _gpu.Installation, CudaGraphs = graphs, KvCacheType = ErnieKvCacheType.Float32, KvCacheBytes = 1 << 20, PrefixCacheBytes = 0, MaxConcurrentRequests = 2, PrefillChunkTokens = 128, Threads = 1,
        LoggerFactory = log?.Factory, Observer = observer is null ? null : (_, _, _) => observer(),
    }, cancellationToken: Token);

    /// <summary>Three tokens, of which two are decoded, with their log-probabilities: equal bits of logits give equal ones.</summary>
    private static async Task<List<(int Token, float LogProbability)>> Answer(ErnieModel model) =>
        await model.GenerateTokensAsync(s_prompt, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 3, IgnoreStopTokens = true }, null, 0, Token).Select(static token => (token.Id, token.Probabilities!.Chosen)).ToListAsync(Token);
}
