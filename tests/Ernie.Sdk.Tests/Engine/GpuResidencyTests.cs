using System.Diagnostics.Metrics;
using Ernie.Sdk.Engine;
using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Native;
using Ernie.Sdk.Tests.Chat;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>Half of the experts of the shipped model on an emulated GPU, the others on the CPU: those that are used most come to the GPU, and what is computed does not change.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuResidencyTests(ITestOutputHelper output) : IDisposable
{
    private const int Prompt = 64, HalfOfExperts = LimitedGpu.MoeLayers * LimitedGpu.ExpertsOfLayer / 2, PerToken = 2;

    private readonly LimitedGpu _gpu = new(256);
    private readonly ChoiceCounts _counts = new();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose()
    {
        _counts.Dispose();
        _gpu.Dispose();
    }

    [Theory]
    [InlineData(ErniePrecision.BFloat16)]
    [InlineData(ErniePrecision.Int4)]
    [InlineData(ErniePrecision.Int8)]
    [InlineData(ErniePrecision.Int2)]
    [InlineData(ErniePrecision.Float32)]
    public async Task SkewedLoad_ComesToTheGpu_AndResultsAreTheCpus(ErniePrecision experts)
    {
        using var folder = new TemporaryFolder();
        var path = experts == ErniePrecision.BFloat16 ? await TinyModel.ExportedAsync() : folder.File("model");
        if (experts != ErniePrecision.BFloat16) await ErnieExporter.ExportAsync(TinyModel.Checkpoint, path, new ErnieExportOptions { Experts = experts, Dense = ErniePrecision.BFloat16, Calibrate = experts == ErniePrecision.Int2 }, cancellationToken: Token);
        await using var cpu = await _gpu.LoadOnCpuAsync(path);
        // A text of few words has few experts.
        var text = Repeated(Prompt);
        var (answer, other) = (await LimitedGpu.Answer(cpu, text), await LimitedGpu.Answer(cpu, LimitedGpu.Prompt));
        var isPacked = experts is ErniePrecision.Int4 or ErniePrecision.Int8 or ErniePrecision.Int2;
        var expected = await LoadedModels.LogitsAsync(cpu, [.. LimitedGpu.Prompt.Take(3)], Token);

        var log = new RecordedLog();
        var limit = Limit(path);
        await using (var model = await _gpu.LoadAsync(path, limit, log))
        {
            _counts.Reset();
            Assert.Equal(answer, await LimitedGpu.Answer(model, text));
            var (first, moves) = (Share(Prompt + 3), _counts.Moves);
            // A step moves one at most.
            Assert.InRange(moves, 2, 4);
            await model.ClearPrefixCacheAsync();
            Assert.Equal(answer, await LimitedGpu.Answer(model, text));
            await model.ClearPrefixCacheAsync();
            _counts.Reset();
            Assert.Equal(answer, await LimitedGpu.Answer(model, text));
            var last = Share(Prompt + 3);
            output.WriteLine($"{experts}: {first:P1} of the choices on the GPU in the first answer, {last:P1} in the third, after {moves} and {_counts.AllMoves} moves; {_gpu.Driver.PeakBytes:N0} of {limit:N0} bytes");
            // Half of the experts, any of them, would have half of the choices.
            Assert.True(last > first + 0.2, $"{first:P1}, then {last:P1}");
            Assert.InRange(last, 0.9, 1);
            Assert.Equal(0, _counts.Moves);
            // Another text, for which other experts are wanted, is not worse for it.
            var logits = await LoadedModels.LogitsAsync(model, [.. LimitedGpu.Prompt.Take(3)], Token);
            output.WriteLine($"largest difference {Golden.MaxDifference(logits, expected):E2}");
            // Activations are quantised too, and one on the edge between two codes may fall either way.
            TensorAssert.Near(expected, logits, isPacked ? 0.3 : LimitedGpu.Tolerance, isPacked ? 0 : LimitedGpu.Tolerance, "logits");
            Assert.Equal(other, await LimitedGpu.Answer(model, LimitedGpu.Prompt));
            // No slot was added.
            Assert.InRange(_gpu.Driver.PeakBytes, limit / 2, limit);
        }
        var lines = log.Lines.Where(static line => line.Contains("have taken the places of others", StringComparison.Ordinal)).ToArray();
        Assert.InRange(lines.Length, 2, 5);
        Assert.Contains("on the GPU, 1 since loading. Of the latest choices", lines[0], StringComparison.Ordinal);
        _gpu.Driver.AssertNothingIsLeft();
    }

    [Fact]
    public async Task TextsInTurn_DoNotThrash()
    {
        var path = await TinyModel.ExportedAsync();
        int[][] texts = [Repeated(Prompt), [.. Enumerable.Repeat(LoadedModels.Ids(9, 7), 9).SelectMany(static ids => ids)]];
        await using var model = await _gpu.LoadAsync(path, Limit(path));
        for (var round = 0; round < 3; round++)
        {
            foreach (var text in texts) await LimitedGpu.Answer(model, text);
            await model.ClearPrefixCacheAsync();
        }
        var settled = _counts.AllMoves;
        for (var round = 0; round < 3; round++)
        {
            foreach (var text in texts) await LimitedGpu.Answer(model, text);
            await model.ClearPrefixCacheAsync();
        }
        output.WriteLine($"{settled} moves in three rounds, {_counts.AllMoves} in six");
        Assert.InRange(settled, 2, HalfOfExperts);
        Assert.InRange(_counts.AllMoves - settled, 0, 2);
    }

    /// <summary>Of a move, the copies are the layer's map without the expert that goes, gate|up, down, and the map with the one that comes. Each fails once.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public async Task ACopyThatFails_IsTheStepsFailure_AndTheModelGoesOn(int copy)
    {
        var path = await TinyModel.ExportedAsync();
        var text = Repeated(Prompt);
        await using var cpu = await _gpu.LoadOnCpuAsync(path);
        // Another text chooses that which has to go, too.
        var other = await ChoosingAll(cpu);
        var (expected, answer) = (await LoadedModels.LogitsAsync(cpu, other, Token), await LimitedGpu.Answer(cpu, text));
        var isArmed = true;
        // The observer is told of a step before experts move.
        void Arm()
        {
            if (isArmed) _gpu.Driver.Fail("cuMemcpyHtoDAsync_v2", (CudaResult)700, copy);
            isArmed = false;
        }
        await using (var model = await _gpu.LoadAsync(path, Limit(path), configure: options => options.Observer = (_, _, _) => Arm()))
        {
            var e = await Assert.ThrowsAsync<InvalidOperationException>(() => LimitedGpu.Answer(model, text, 1));
            Assert.Contains("CUDA_ERROR_ILLEGAL_ADDRESS", e.Message, StringComparison.Ordinal);
            Assert.Equal(0, _counts.AllMoves);
            var logits = await LoadedModels.LogitsAsync(model, other, Token);
            TensorAssert.Near(expected, logits, LimitedGpu.Tolerance, LimitedGpu.Tolerance, "logits");
            Assert.Equal(answer, await LimitedGpu.Answer(model, text));
            Assert.InRange(_counts.AllMoves, 2, 6);
            logits = await LoadedModels.LogitsAsync(model, other, Token);
            TensorAssert.Near(expected, logits, LimitedGpu.Tolerance, LimitedGpu.Tolerance, "logits after moves");
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    /// <summary>A text that chooses all experts which the GPU has at first.</summary>
    private static async Task<int[]> ChoosingAll(ErnieModel cpu)
    {
        for (var seed = 0; seed < 500; seed++)
        {
            var ids = LoadedModels.Ids(seed, 14);
            var before = cpu.GetExpertLoad().Layers;
            await LoadedModels.LogitsAsync(cpu, ids, Token);
            if (cpu.GetExpertLoad().Layers.Zip(before).All(static pair => Enumerable.Range(0, LimitedGpu.ExpertsOfLayer / 2).All(e => pair.First.ExpertTokens[e] > pair.Second.ExpertTokens[e]))) return ids;
        }
        throw new InvalidOperationException("No text of 14 tokens chooses all of them.");
    }

    private static int[] Repeated(int count) => [.. Enumerable.Range(0, count).Select(static i => i == 0 ? 1 : 400 + i % 2)];

    private double Share(int tokens) => 1 - (double)_counts.CpuChoices / (tokens * LimitedGpu.MoeLayers * PerToken);

    private long Limit(string path) => _gpu.WithoutExperts(path, HalfOfExperts) + Math.Min(LimitedGpu.Slack, LimitedGpu.ExpertBytes(path) - 1);

    /// <summary>What the meter says of models on a GPU.</summary>
    private sealed class ChoiceCounts : IDisposable
    {
        private readonly MeterListener _listener = new() { InstrumentPublished = static (instrument, l) => { if (instrument.Name is "ernie.expert.cpu.choices" or "ernie.expert.moves") l.EnableMeasurementEvents(instrument); } };
        private long _choices, _moves, _choicesBefore, _movesBefore;

        public ChoiceCounts()
        {
            _listener.SetMeasurementEventCallback<long>((instrument, value, _, _) =>
            {
                if (instrument.Name == "ernie.expert.moves") _moves += value;
                else _choices += value;
            });
            _listener.Start();
        }

        /// <summary>Since <see cref="Reset"/>.</summary>
        public long CpuChoices => Read()._choices - _choicesBefore;
        public long Moves => Read()._moves - _movesBefore;
        /// <summary>Of the model that is loaded.</summary>
        public long AllMoves => Read()._moves;

        public void Reset() => (_choicesBefore, _movesBefore) = (Read()._choices, _moves);

        public void Dispose() => _listener.Dispose();

        private ChoiceCounts Read()
        {
            (_choices, _moves) = (0, 0);
            _listener.RecordObservableInstruments();
            return this;
        }
    }
}
