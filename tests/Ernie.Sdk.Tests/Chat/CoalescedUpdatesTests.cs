using System.Runtime.CompilerServices;
using System.Threading.Channels;
using Ernie.Sdk.Chat;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Time.Testing;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>Streams with a limit of updates a second, by a clock that only the test moves.</summary>
public sealed class CoalescedUpdatesTests : TinyChat
{
    private static readonly TimeSpan s_interval = TimeSpan.FromMilliseconds(50);

    [Fact]
    public async Task TheFirstComesAtOnce_WhatFollowsWhenTheIntervalIsOver_TheLastAtOnce()
    {
        var clock = new FakeTimeProvider();
        var source = new Script();
        await using var stream = Coalesced(clock, source, Token).GetAsyncEnumerator(Token);
        var next = stream.MoveNextAsync().AsTask();
        await source.GiveAsync(Text("a"));
        Assert.True(await next);
        Assert.Equal("a", stream.Current.Text);

        next = stream.MoveNextAsync().AsTask();
        await source.GiveAsync(Text("b"));
        await source.GiveAsync(new(ChatRole.Assistant, [new TextContent("c"), new TextReasoningContent("r")]));
        await source.GiveAsync(new(ChatRole.Assistant, [new TextReasoningContent("s")]));
        clock.Advance(s_interval - TimeSpan.FromTicks(1));
        Assert.False(next.IsCompleted);
        clock.Advance(TimeSpan.FromTicks(1));
        Assert.True(await next);
        Assert.Collection(stream.Current.Contents, static c => Assert.Equal("bc", Assert.IsType<TextContent>(c).Text), static c => Assert.Equal("rs", Assert.IsType<TextReasoningContent>(c).Text));

        // Nothing was held when the interval ended: the next one need not wait.
        next = stream.MoveNextAsync().AsTask();
        clock.Advance(s_interval);
        await source.GiveAsync(Text("d"));
        Assert.True(await next);
        Assert.Equal("d", stream.Current.Text);

        next = stream.MoveNextAsync().AsTask();
        await source.GiveAsync(Text("e"));
        await source.GiveAsync(new(ChatRole.Assistant, [new UsageContent(new UsageDetails())]) { FinishReason = ChatFinishReason.Stop });
        source.End();
        Assert.True(await next);
        Assert.Equal(("e", ChatFinishReason.Stop, 2), (stream.Current.Text, stream.Current.FinishReason, stream.Current.Contents.Count));
        Assert.False(await stream.MoveNextAsync());
    }

    [Fact]
    public async Task ASlowReader_GetsAllThatHasComeMeanwhile()
    {
        var clock = new FakeTimeProvider();
        async IAsyncEnumerable<ChatResponseUpdate> AtHand()
        {
            await Task.CompletedTask;
            for (var i = 0; i < 100; i++) yield return Text("x");
        }
        var updates = await new CoalescedUpdates(s_interval, clock).ReadAsync(_ => AtHand(), Token).ToListAsync(Token);
        Assert.Equal(new string('x', 100), Assert.Single(updates).Text);
    }

    [Fact]
    public async Task WhatCameBeforeAFailure_IsGivenBeforeIt()
    {
        var source = new Script();
        await using var stream = Coalesced(new FakeTimeProvider(), source, Token).GetAsyncEnumerator(Token);
        var next = stream.MoveNextAsync().AsTask();
        await source.GiveAsync(Text("a"));
        Assert.True(await next);
        next = stream.MoveNextAsync().AsTask();
        await source.GiveAsync(Text("b"));
        source.End(new IOException("gone"));
        Assert.True(await next);
        Assert.Equal("b", stream.Current.Text);
        Assert.Equal("gone", (await Assert.ThrowsAsync<IOException>(async () => await stream.MoveNextAsync())).Message);
        Assert.True(source.IsDisposed);
    }

    [Fact]
    public async Task ACancel_ThrowsWithTheCallersToken_AndLeavingEndsTheSource()
    {
        var source = new Script();
        using (var cancellation = new CancellationTokenSource())
        {
            await using var stream = Coalesced(new FakeTimeProvider(), source, cancellation.Token).GetAsyncEnumerator(cancellation.Token);
            var next = stream.MoveNextAsync().AsTask();
            await cancellation.CancelAsync();
            Assert.Equal(cancellation.Token, (await Assert.ThrowsAnyAsync<OperationCanceledException>(() => next)).CancellationToken);
        }
        Assert.True(source.IsDisposed);

        source = new Script();
        await using (var stream = Coalesced(new FakeTimeProvider(), source, Token).GetAsyncEnumerator(Token))
        {
            var next = stream.MoveNextAsync().AsTask();
            await source.GiveAsync(Text("a"));
            Assert.True(await next);
        }
        Assert.True(source.IsDisposed);
    }

    [Fact]
    public async Task AnAnswer_IsTheSame_InFewerUpdates()
    {
        // The clock stands still: only the first and the last update are due.
        await using var model = await TinyModel.LoadAsync(static o => o.Clock = new FakeTimeProvider());
        using var client = model.AsChatClient();
        var options = new ChatOptions { Temperature = 0, MaxOutputTokens = 40, AdditionalProperties = new() { ["logprobs"] = true } };
        var all = await Client.GetStreamingResponseAsync(Question, options, Token).ToListAsync(Token);
        options.AdditionalProperties["max_updates_per_second"] = 30;
        var few = await client.GetStreamingResponseAsync(Question, options, Token).ToListAsync(Token);
        Assert.True(all.Count > 3);
        Assert.InRange(few.Count, 1, 2);
        Assert.Equal(string.Concat(all), string.Concat(few));
        Assert.Equal(ChatFinishReason.Stop, few[^1].FinishReason);
        Assert.Equal(all[^1].Contents.OfType<UsageContent>().Single().Details.OutputTokenCount, Assert.Single(few.SelectMany(static u => u.Contents).OfType<UsageContent>()).Details.OutputTokenCount);
        Assert.Equal(Probabilities(all), Probabilities(few));
        Assert.Equal(string.Concat(all), (await client.GetResponseAsync(Question, options, Token)).Text);

        options.AdditionalProperties.Clear();
        options.RawRepresentationFactory = static _ => new ErnieGenerationOptions { MaxUpdatesPerSecond = 0 };
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => client.GetResponseAsync(Question, options, Token));

        static IEnumerable<(int, double)> Probabilities(IEnumerable<ChatResponseUpdate> updates) =>
            updates.SelectMany(static u => u.AdditionalProperties?["logprobs"] is ErnieTokenLogProbability[] own ? own : []).Select(static p => (p.TokenId, (double)p.LogProbability));
    }

    private static IAsyncEnumerable<ChatResponseUpdate> Coalesced(TimeProvider clock, Script source, CancellationToken cancellationToken) => new CoalescedUpdates(s_interval, clock).ReadAsync(source.ReadAsync, cancellationToken);

    private static ChatResponseUpdate Text(string text) => new(ChatRole.Assistant, text);

    /// <summary>A stream that gives what the test says, when it says so.</summary>
    private sealed class Script
    {
        private readonly Channel<bool> _asked = Channel.CreateUnbounded<bool>();
        private readonly Channel<ChatResponseUpdate> _given = Channel.CreateUnbounded<ChatResponseUpdate>();

        public bool IsDisposed { get; private set; }

        /// <summary>Gives an update to a reader that asks, and returns when it has taken it and asks for the next.</summary>
        public async Task GiveAsync(ChatResponseUpdate update)
        {
            await _asked.Reader.ReadAsync(Token);
            await _given.Writer.WriteAsync(update, Token);
            await _asked.Reader.WaitToReadAsync(Token);
        }

        public void End(Exception? failure = null) => _given.Writer.Complete(failure);

        public async IAsyncEnumerable<ChatResponseUpdate> ReadAsync([EnumeratorCancellation] CancellationToken cancellationToken)
        {
            try
            {
                while (true)
                {
                    await _asked.Writer.WriteAsync(true, cancellationToken);
                    if (!await _given.Reader.WaitToReadAsync(cancellationToken)) yield break;
                    yield return await _given.Reader.ReadAsync(cancellationToken);
                }
            }
            finally
            {
                IsDisposed = true;
            }
        }
    }
}
