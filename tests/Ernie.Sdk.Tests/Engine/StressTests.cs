using System.Collections.Concurrent;
using System.Diagnostics;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>Many requests and conversations at once in a cache that is too small for them, against the same ones alone. Eight seconds; ten minutes with <c>ERNIE_FULL=1</c>.</summary>
public sealed class StressTests(ITestOutputHelper output)
{
    private const int Workers = 64;
    private static readonly CancellationToken s_none = CancellationToken.None;
    private static readonly ErnieSparseAttention s_sparse = new() { EncoderTopKLeft = 1, EncoderTopKRight = 2, DecoderTopKLeft = 1, DecoderTopKRight = 2 };

    [Fact]
    public async Task SixtyFourStreams_WithCancelsForksRewindsAndPreemption_NeverGiveAWrongToken()
    {
        var time = Environment.GetEnvironmentVariable("ERNIE_FULL") == "1" ? TimeSpan.FromMinutes(10) : TimeSpan.FromSeconds(8);
        await using var alone = await LoadAsync(static options => (options.MaxConcurrentRequests, options.PrefixCacheBytes) = (1, 0));
        // Twelve blocks of 128 for 64 streams.
        await using var model = await LoadAsync(static options => (options.MaxConcurrentRequests, options.KvCacheBytes) = (64, 12 * 680_000));
        // Every answer by itself, first: nothing else may run while memory is looked at.
        var wanted = new Dictionary<int, (List<int> First, List<int> Second)>();
        for (var kind = 0; kind < 12; kind++)
        {
            using var conversation = alone.StartConversation();
            wanted[kind] = (await AnswerAsync(conversation, Prompt(kind), kind, s_none), await AnswerAsync(conversation, Next(kind), kind + 100, s_none));
        }

        var clock = Stopwatch.StartNew();
        var done = new ConcurrentDictionary<string, int>();
        var memory = new List<long>();
        var workers = Enumerable.Range(0, Workers).Select(worker => Task.Run(async () =>
        {
            var random = new Random(worker);
            while (clock.Elapsed < time)
            {
                var kind = random.Next(wanted.Count);
                var what = random.Next(5) switch { 0 => "cancel", 1 => "fork", 2 => "rewind", 3 => "converse", _ => "ask" };
                try
                {
                    using var cancel = new CancellationTokenSource();
                    if (what == "cancel") cancel.CancelAfter(random.Next(300));
                    using var conversation = model.StartConversation();
                    Assert.Equal(wanted[kind].First, await AnswerAsync(conversation, Prompt(kind), kind, cancel.Token));
                    if (what == "fork")
                    {
                        using var fork = await conversation.ForkAsync();
                        var answers = await Task.WhenAll(AnswerAsync(conversation, Next(kind), kind + 100, s_none), AnswerAsync(fork, Next(kind), kind + 100, s_none));
                        Assert.All(answers, answer => Assert.Equal(wanted[kind].Second, answer));
                    }
                    else if (what is "rewind" or "converse")
                    {
                        var count = conversation.TokenCount;
                        if (what == "rewind")
                        {
                            await AnswerAsync(conversation, Next(kind + 1), 1, s_none);
                            await conversation.RewindAsync(count);
                        }
                        Assert.Equal(wanted[kind].Second, await AnswerAsync(conversation, Next(kind), kind + 100, s_none));
                    }
                }
                catch (OperationCanceledException) when (what == "cancel")
                {
                }
                done.AddOrUpdate(what, 1, static (_, n) => n + 1);
            }
        }, s_none)).ToArray();
        while (clock.Elapsed < time)
        {
            await Task.Delay(time / 8, s_none);
            memory.Add(Process.GetCurrentProcess().PrivateMemorySize64);
        }
        await Task.WhenAll(workers);

        for (var wait = 0; model.KvBlocks.Free < model.KvBlocks.All && wait < 1000; wait++) await Task.Delay(10, s_none);
        Assert.Equal(model.KvBlocks.All, model.KvBlocks.Free);
        output.WriteLine($"{string.Join(", ", done.Select(static item => $"{item.Value} × {item.Key}"))}; {model.Preemptions} preemptions; private memory in MiB: {string.Join(' ', memory.Select(static bytes => bytes >> 20))}");
        // Waiting turns lose their blocks before anybody who runs does, so that eight seconds may pass without; other tests run in this process meanwhile, so they do not judge the memory either.
        if (time < TimeSpan.FromMinutes(1)) return;
        Assert.True(model.Preemptions > 0, "the cache was never too small");
        // The last half of ten minutes must not grow; a tenth is the collector's freedom.
        Assert.InRange(memory[^1], 0, memory[memory.Count / 2] * 1.1);
    }

    private static Task<ErnieModel> LoadAsync(Action<ErnieModelOptions> configure) => TinyModel.LoadAsync(options =>
    {
        options.SparseAttention = s_sparse;
        configure(options);
    });

    /// <summary>Half of them begin alike.</summary>
    private static int[] Prompt(int kind) => [.. Ids(kind % 2 == 0 ? 1 : kind, 300), .. Ids(kind, 40 + 40 * kind)];

    private static int[] Next(int kind) => Ids(1000 + kind, 30 + 10 * kind);

    private static int[] Ids(int seed, int count)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => random.Next(100, 1400))];
    }

    /// <summary>Some answers outgrow the block that is kept for them, so that others lose theirs.</summary>
    private static async Task<List<int>> AnswerAsync(ErnieConversation conversation, int[] prompt, int seed, CancellationToken cancellation) =>
        await conversation.ContinueAsync(prompt, new ErnieGenerationOptions { MaxTokens = seed % 100 is 0 or 4 ? 400 : 40, IgnoreStopTokens = true, Seed = seed, TopP = 1 }, cancellation).ToListAsync(cancellation);
}
