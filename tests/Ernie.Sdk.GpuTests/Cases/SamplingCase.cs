using Ernie.Sdk.Engine;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.GpuTests.Cases;

/// <summary>One launch of the sampling kernel.</summary>
internal static unsafe class SamplingCase
{
    /// <summary>Most log-probabilities of a row.</summary>
    public const int MaxTop = 20;

    /// <summary>Rows of logits [rows, vocabulary] go to the requests that have one, in order.</summary>
    public static SamplingResult[] Run(LaunchedKernels kernels, float[] logits, int vocabulary, Range[] undefined, SamplingRequest[] requests)
    {
        List<int> historyIds = [], historyCounts = [], biasIds = [];
        List<float> biasValues = [];
        List<ulong> allowed = [];
        var rows = new List<SampleRow>();
        var words = (vocabulary + 63) / 64;
        var logitsRow = 0;
        foreach (var request in requests)
        {
            var settings = request.Settings;
            var row = new SampleRow
            {
                Seed = settings.Seed, Temperature = settings.Temperature, TopP = settings.TopP, MinP = settings.MinP,
                Repetition = settings.RepetitionPenalty, Frequency = settings.FrequencyPenalty, Presence = settings.PresencePenalty,
                TopK = settings.TopK, Greedy = settings.IsGreedy ? 1 : 0, LogitsRow = request.HasRow ? logitsRow++ : -1, HistoryBegin = historyIds.Count, BiasBegin = biasIds.Count,
                Allowed = request.Allowed is null ? -1 : allowed.Count / words, Draw = request.Draw, Top = request.Top,
            };
            foreach (var id in request.Prompt.Concat(request.Answer).Distinct())
            {
                historyIds.Add(id);
                historyCounts.Add(request.Answer.Count(token => token == id));
            }
            biasIds.AddRange(settings.Bias.Select(static pair => pair.Key));
            biasValues.AddRange(settings.Bias.Select(static pair => pair.Value));
            if (request.Allowed is not null) allowed.AddRange(request.Allowed);
            rows.Add(row with { HistoryEnd = historyIds.Count, BiasEnd = biasIds.Count });
        }
        using NativeArray<float> logitsArray = NativeArray<float>.From(logits), biasValuesArray = NativeArray<float>.From([.. biasValues]);
        using NativeArray<float> log = new(requests.Length), topLog = new(requests.Length * MaxTop);
        using var undefinedArray = NativeArray<int>.From([.. undefined.SelectMany(static range => new[] { range.Start.Value, range.End.Value })]);
        using NativeArray<int> historyIdsArray = NativeArray<int>.From([.. historyIds]), historyCountsArray = NativeArray<int>.From([.. historyCounts]), biasIdsArray = NativeArray<int>.From([.. biasIds]);
        using NativeArray<int> tokens = new(requests.Length), topIds = new(requests.Length * MaxTop);
        using var allowedArray = NativeArray<ulong>.From([.. allowed]);
        using var rowsArray = NativeArray<SampleRow>.From([.. rows]);
        tokens.Span.Fill(-1);
        kernels.Sample(new SampleArguments
        {
            Logits = logitsArray.Pointer, VocabSize = vocabulary, Undefined = undefinedArray.Pointer, UndefinedCount = undefined.Length, Rows = rowsArray.Pointer, RowCount = requests.Length,
            HistoryIds = historyIdsArray.Pointer, HistoryCounts = historyCountsArray.Pointer, BiasIds = biasIdsArray.Pointer, BiasValues = biasValuesArray.Pointer, Allowed = allowedArray.Pointer, AllowedWords = words,
            Tokens = tokens.Pointer, LogProbabilities = log.Pointer, TopIds = topIds.Pointer, TopLogProbabilities = topLog.Pointer, MaxTop = MaxTop,
        }, new SampleLengths(logits.Length / vocabulary, historyIds.Count, biasIds.Count, allowed.Count / words));
        return [.. requests.Select((request, i) => new SamplingResult(tokens.Span[i], log.Span[i],
            [.. Enumerable.Range(i * MaxTop, Math.Max(0, Math.Min(request.Top, MaxTop))).Select(at => (topIds.Pointer[at], topLog.Pointer[at]))]))];
    }
}

internal sealed record SamplingRequest(SamplingSettings Settings, int Draw)
{
    public int[] Prompt { get; init; } = [];
    public int[] Answer { get; init; } = [];
    public ulong[]? Allowed { get; init; }
    public int Top { get; init; } = -1;
    public bool HasRow { get; init; } = true;
}

internal sealed record SamplingResult(int Token, float LogProbability, (int Id, float LogProbability)[] Top);
