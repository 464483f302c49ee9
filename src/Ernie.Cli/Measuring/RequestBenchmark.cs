using System.Diagnostics;
using Ernie.Sdk;

namespace Ernie.Cli.Measuring;

/// <summary>What to measure of a model that answers many.</summary>
internal sealed record RequestBenchmarkPlan
{
    /// <summary>Answers that are written at once.</summary>
    public required int Streams { get; init; }
    /// <summary>Tokens of each answer.</summary>
    public required int Tokens { get; init; }
    /// <summary>Tokens of the prompt that comes in meanwhile.</summary>
    public required int PromptTokens { get; init; }
    /// <summary>Requests that are cancelled at a random moment.</summary>
    public required int Cancels { get; init; }
}

/// <summary>Times what each of several users notices: the gaps between their tokens, alone and while another's long prompt is computed, and how fast a cancelled request lets go of its memory.</summary>
internal sealed class RequestBenchmark(RequestBenchmarkPlan plan, ErnieModel model, MeteredKernels meter, Action<string> say)
{
    private readonly Random _random = new(20_26);

    public async Task<RequestBenchmarkResult> RunAsync(CancellationToken cancellationToken)
    {
        // Compiles everything that the timed runs call.
        await StreamsAsync(1, 16, 0, cancellationToken).ConfigureAwait(false);
        await Task.Delay(200, cancellationToken).ConfigureAwait(false);
        say($"{plan.Streams} answers");
        meter.Take();
        var alone = await StreamsAsync(plan.Streams, plan.Tokens, 0, cancellationToken).ConfigureAwait(false);
        var outside = OutsideKernels(meter.Take().Steps);
        say($"{plan.Streams} answers beside a prompt of {plan.PromptTokens} tokens");
        var beside = await StreamsAsync(plan.Streams, plan.Tokens, plan.PromptTokens, cancellationToken).ConfigureAwait(false);
        say($"{plan.Cancels} cancelled requests");
        var cancels = await CancelsAsync(cancellationToken).ConfigureAwait(false);
        return new RequestBenchmarkResult(model.ModelId, MachineDescription.Current, meter.Name, plan.Streams, alone, outside, beside, plan.PromptTokens, cancels, model.Preemptions);
    }

    /// <summary>Share of the time from one decode step's first kernel to the next one's in which no kernel computes, of steps that decode for all answers. The time of counting is left out.</summary>
    private double OutsideKernels(IReadOnlyList<StepTraffic> steps)
    {
        double outside = 0, all = 0;
        foreach (var (step, next) in steps.Zip(steps.Skip(1)))
        {
            if (!step.IsDecode || !next.IsDecode || step.Sequences != plan.Streams || next.Sequences != plan.Streams) continue;
            var seconds = Stopwatch.GetElapsedTime(step.Started, next.Started).TotalSeconds - step.MeterSeconds;
            all += seconds;
            outside += seconds - step.KernelSeconds;
        }
        return outside / all;
    }

    /// <summary>Milliseconds between two tokens of an answer: of all answers, after each one's first token, and while the prompt is computed if there is one.</summary>
    private async Task<Distribution> StreamsAsync(int streams, int tokens, int promptTokens, CancellationToken cancellationToken)
    {
        var running = streams;
        var begun = new TaskCompletionSource();
        (long Begin, long End) window = (0, long.MaxValue);
        var gaps = await Task.WhenAll(Enumerable.Range(0, streams).Select(_ => Prompt(64)).ToArray().Select(prompt => Task.Run(async () =>
        {
            var arrivals = new List<long>();
            await foreach (var _ in model.GenerateAsync(prompt, Greedy(promptTokens > 0 ? int.MaxValue : tokens), cancellationToken).ConfigureAwait(false))
            {
                arrivals.Add(Stopwatch.GetTimestamp());
                if (arrivals.Count == 4 && Interlocked.Decrement(ref running) == 0) begun.TrySetResult();
                if (Volatile.Read(ref window.End) != long.MaxValue) break;
            }
            return arrivals;
        }, cancellationToken)).Append(Task.Run(async () =>
        {
            if (promptTokens == 0) return [];
            await begun.Task.WaitAsync(cancellationToken).ConfigureAwait(false);
            window.Begin = Stopwatch.GetTimestamp();
            await foreach (var _ in model.GenerateAsync(Prompt(promptTokens), Greedy(1), cancellationToken).ConfigureAwait(false))
            {
            }
            Volatile.Write(ref window.End, Stopwatch.GetTimestamp());
            return new List<long>();
        }, cancellationToken))).ConfigureAwait(false);
        return Distribution.Of(gaps.SelectMany(arrivals => arrivals.Zip(arrivals.Skip(1))).Where(gap => gap.First >= window.Begin && gap.Second <= window.End).Select(static gap => Stopwatch.GetElapsedTime(gap.First, gap.Second).TotalMilliseconds));
    }

    /// <summary>Milliseconds from a cancel to the freed blocks, beside answers that go on; requests are cancelled while they wait, in prefill, and in decode.</summary>
    private async Task<Distribution> CancelsAsync(CancellationToken cancellationToken)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        var steady = Task.Run(async () =>
        {
            try
            {
                await foreach (var _ in model.GenerateAsync(Prompt(64), Greedy(int.MaxValue), stop.Token).ConfigureAwait(false))
                {
                }
            }
            catch (OperationCanceledException)
            {
            }
        }, cancellationToken);
        var milliseconds = new List<double>();
        for (var most = 200; milliseconds.Count < plan.Cancels;)
        {
            cancellationToken.ThrowIfCancellationRequested();
            using var cancel = new CancellationTokenSource();
            long asked = 0;
            var request = model.RunToEndAsync(Prompt(_random.Next(1, plan.PromptTokens)), Greedy(64), cancel.Token);
            await Task.Delay(_random.Next(0, most), cancellationToken).ConfigureAwait(false);
            if (request.IsCompleted)
            {
                // It was done before there was anything to cancel; the model is faster than the moments were drawn for.
                most = Math.Max(1, most * 3 / 4);
                continue;
            }
            asked = Stopwatch.GetTimestamp();
            await cancel.CancelAsync().ConfigureAwait(false);
            var freed = await request.ConfigureAwait(false);
            milliseconds.Add(Stopwatch.GetElapsedTime(asked, freed).TotalMilliseconds);
        }
        await stop.CancelAsync().ConfigureAwait(false);
        await steady.ConfigureAwait(false);
        return Distribution.Of(milliseconds);
    }

    private int[] Prompt(int tokens)
    {
        lock (_random) return [.. Enumerable.Range(0, tokens).Select(_ => _random.Next(model.VocabularySize))];
    }

    /// <summary>The presence penalty keeps random weights from repeating one token for ever, with always the same experts.</summary>
    private static ErnieGenerationOptions Greedy(int tokens) =>
        new() { MaxTokens = tokens, IgnoreStopTokens = true, Temperature = 0, RepetitionPenalty = 1, FrequencyPenalty = 0, PresencePenalty = 2 };
}

/// <summary>Milliseconds: how many were measured, the middle one, the 99th percentile and the longest.</summary>
internal sealed record Distribution(int Count, double P50, double P99, double Longest)
{
    public static Distribution Of(IEnumerable<double> values)
    {
        var sorted = values.Order().ToArray();
        return sorted.Length == 0 ? new Distribution(0, double.NaN, double.NaN, double.NaN) : new Distribution(sorted.Length, At(0.5), At(0.99), sorted[^1]);

        double At(double share) => sorted[Math.Min(sorted.Length - 1, (int)(share * sorted.Length))];
    }
}

/// <param name="Model">Name.</param>
/// <param name="Machine">Where.</param>
/// <param name="Kernels">Kernel family.</param>
/// <param name="Streams">Answers at once.</param>
/// <param name="Alone">Gaps between tokens of an answer.</param>
/// <param name="OutsideKernels">Share of a decode step in which no kernel of ours computed: ONNX Runtime's own operators, scheduler, sampler, delivery.</param>
/// <param name="Beside">Gaps while a prompt is computed.</param>
/// <param name="PromptTokens">Its length.</param>
/// <param name="Cancels">From a cancel to the freed blocks.</param>
/// <param name="Preemptions">Requests that had to give their memory to others.</param>
internal sealed record RequestBenchmarkResult(
    string Model, MachineDescription Machine, string Kernels, int Streams, Distribution Alone, double OutsideKernels, Distribution Beside, int PromptTokens, Distribution Cancels, long Preemptions);
