using System.Collections.Concurrent;
using System.Security.Cryptography;
using System.Text;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>Conversations over the real engine and a real, small model, with limits so tight that attention is sparse after three blocks.</summary>
public sealed class ConversationTests
{
    private static readonly CancellationToken s_none = CancellationToken.None;
    private static readonly ErnieSparseAttention s_sparse = new() { EncoderTopKLeft = 1, EncoderTopKRight = 2, DecoderTopKLeft = 1, DecoderTopKRight = 2 };

    [Fact]
    public async Task APromptThatBeginsLikeAnEarlierOne_IsReused_AndItsAnswerIsTheSame()
    {
        await using var cold = await LoadAsync(static options => options.PrefixCacheBytes = 0);
        await using var warm = await LoadAsync();
        var prompt = Ids(1, 900);
        foreach (var length in new[] { 900, 900, 512, 513, 700, 900 })
        {
            var (wanted, none) = await AnswerAsync(cold, prompt[..length], 7);
            var (tokens, cached) = await AnswerAsync(warm, prompt[..length], 7);
            Assert.Equal(wanted, tokens);
            Assert.Equal(0, none);
            if (length != 900 || cached > 0) Assert.Equal((length - 1) / 128 * 128, cached);
        }
        // Under other limits the same tokens leave other keys and values.
        var (dense, cachedDense) = await AnswerAsync(warm, prompt, 7, ErnieSparseAttention.Dense);
        Assert.Equal((await AnswerAsync(cold, prompt, 7, ErnieSparseAttention.Dense)).Tokens, dense);
        Assert.InRange(cachedDense, 0, 128);
        await warm.ClearPrefixCacheAsync();
        Assert.Equal(0, (await AnswerAsync(warm, prompt, 7)).Cached);
    }

    [Fact]
    public async Task AConversation_ForkedRewoundSavedAndRestored_GoesOnAsBefore()
    {
        using var folder = new TemporaryFolder();
        await using var model = await LoadAsync();
        using var conversation = model.StartConversation();
        var first = await ContinueAsync(conversation, Ids(1, 700), 1);
        var count = conversation.TokenCount;
        Assert.Equal(700 + first.Count, count);

        using var fork = await conversation.ForkAsync();
        await conversation.SaveAsync(folder.File("saved"), s_none);
        var second = await ContinueAsync(conversation, Ids(2, 150), 2);
        Assert.Equal(second, await ContinueAsync(fork, Ids(2, 150), 2));

        await conversation.RewindAsync(count);
        Assert.Equal(count, conversation.TokenCount);
        // Another turn in between leaves no trace.
        await ContinueAsync(conversation, Ids(3, 90), 3);
        await conversation.RewindAsync(count);
        Assert.Equal(second, await ContinueAsync(conversation, Ids(2, 150), 2));

        await using var other = await LoadAsync();
        using var restored = await other.RestoreConversationAsync(folder.File("saved"), s_none);
        Assert.Equal(count, restored.TokenCount);
        Assert.Equal(second, await ContinueAsync(restored, Ids(2, 150), 2));
        Assert.Equal(conversation.GetTokens(), restored.GetTokens());

        // Where the cache has no room for it, it is computed again.
        await using var small = await LoadAsync(static options => (options.KvCacheBytes, options.PrefixCacheBytes) = (6 << 20, 0));
        using var replayed = await small.RestoreConversationAsync(folder.File("saved"), s_none);
        using var crowd = small.StartConversation();
        await ContinueAsync(crowd, Ids(5, small.ContextLength - 200), 5);
        Assert.Equal(second, await ContinueAsync(replayed, Ids(2, 150), 2));
    }

    [Fact]
    public async Task RequestsThatOutgrowTheCache_AnswerAsTheyWouldAlone()
    {
        await using var roomy = await LoadAsync(static options => options.PrefixCacheBytes = 0);
        await using var model = await LoadAsync(static options => options.KvCacheBytes = 6 << 20);
        var requests = Enumerable.Range(0, 10).Select(i => Ids(i, 100 + 60 * i)).ToArray();
        var answers = new ConcurrentDictionary<int, List<int>>();
        await Task.WhenAll(requests.Select(async (prompt, i) => answers[i] = (await AnswerAsync(model, prompt, i, maxTokens: 120)).Tokens));
        for (var i = 0; i < requests.Length; i++) Assert.Equal((await AnswerAsync(roomy, requests[i], i, maxTokens: 120)).Tokens, answers[i]);
        Assert.True(model.Preemptions > 0);
    }

    [Fact]
    public async Task RandomCancels_LeaveNothingBehind_AndDisturbNobody()
    {
        await using var model = await LoadAsync(static options => options.KvCacheBytes = 16 << 20);
        var random = new Random(1);
        var steady = Ids(99, 300);
        var (wanted, _) = await AnswerAsync(model, steady, 99, maxTokens: 60);
        for (var round = 0; round < 12; round++)
        {
            var delays = Enumerable.Range(0, 10).Select(_ => (Length: random.Next(1, 900), Delay: random.Next(0, 60))).ToArray();
            var cancelled = delays.Select(async (item, i) =>
            {
                using var source = new CancellationTokenSource();
                source.CancelAfter(item.Delay);
                try
                {
                    await foreach (var _ in model.GenerateAsync(Ids(1000 + i, item.Length), new ErnieGenerationOptions { MaxTokens = 100, IgnoreStopTokens = true, SparseAttention = s_sparse }, source.Token))
                    {
                    }
                }
                catch (OperationCanceledException)
                {
                }
            }).ToArray();
            Assert.Equal(wanted, (await AnswerAsync(model, steady, 99, maxTokens: 60)).Tokens);
            await Task.WhenAll(cancelled);
        }
        for (var wait = 0; model.KvBlocks.Free < model.KvBlocks.All && wait < 1000; wait++) await Task.Delay(10, s_none);
        Assert.Equal(model.KvBlocks.All, model.KvBlocks.Free);
    }

    [Fact]
    public async Task AFullQueue_RefusesWithATypedException()
    {
        await using var model = await LoadAsync(static options => (options.MaxConcurrentRequests, options.MaxQueuedRequests) = (1, 2));
        using var source = new CancellationTokenSource();
        var options = new ErnieGenerationOptions { MaxTokens = 400, IgnoreStopTokens = true };
        var tasks = Enumerable.Range(0, 8).Select(i => Task.Run(async () => await model.GenerateAsync(Ids(i, 900), options, source.Token).ToListAsync(source.Token))).ToArray();
        var refused = await Assert.ThrowsAsync<ErnieQueueFullException>(async () => await (await Task.WhenAny(tasks)));
        Assert.Equal(2, refused.WaitingRequests);
        Assert.Contains("MaxQueuedRequests", refused.Message);
        await source.CancelAsync();
        foreach (var task in tasks) await Assert.ThrowsAnyAsync<Exception>(() => task);
        // The engine hears of the cancels a moment after their callers; until then the queue is full.
        for (var wait = 0; ; wait++)
        {
            try
            {
                Assert.NotEmpty((await AnswerAsync(model, Ids(1, 5), 1)).Tokens);
                return;
            }
            catch (ErnieQueueFullException) when (wait < 1000)
            {
                await Task.Delay(10, s_none);
            }
        }
    }

    [Fact]
    public async Task AConversation_SurvivesCancelsAndRefusals()
    {
        await using var model = await LoadAsync();
        using var conversation = model.StartConversation();
        var stream = conversation.ContinueAsync(Ids(1, 600), new ErnieGenerationOptions { MaxTokens = 500, IgnoreStopTokens = true, Seed = 1 }, s_none).GetAsyncEnumerator(s_none);
        Assert.True(await stream.MoveNextAsync());
        Assert.Throws<InvalidOperationException>(() => conversation.GetTokens());
        await Assert.ThrowsAsync<InvalidOperationException>(() => conversation.ForkAsync());
        await stream.DisposeAsync();
        Assert.InRange(conversation.TokenCount, 601, 1100);
        await conversation.RewindAsync(600);
        Assert.Equal(Ids(1, 600), conversation.GetTokens());
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => conversation.RewindAsync(601));
        await Assert.ThrowsAsync<ErnieContextOverflowException>(async () => await conversation.ContinueAsync(new int[model.ContextLength], cancellationToken: s_none).ToListAsync(s_none));
        Assert.Equal(600, conversation.TokenCount);
        Assert.NotEmpty(await ContinueAsync(conversation, Ids(2, 5), 2));
        await conversation.RewindAsync(0);
        Assert.Equal(0, conversation.TokenCount);
        Assert.Equal(await ContinueAsync(model.StartConversation(), Ids(4, 300), 4), await ContinueAsync(conversation, Ids(4, 300), 4));
        conversation.Dispose();
        await Assert.ThrowsAsync<ObjectDisposedException>(() => conversation.ForkAsync());
    }

    [Fact]
    public async Task ADamagedOrForeignFile_IsRefusedByName()
    {
        using var folder = new TemporaryFolder();
        await using var model = await LoadAsync();
        using (var conversation = model.StartConversation())
        {
            await ContinueAsync(conversation, Ids(1, 200), 1);
            await conversation.SaveAsync(folder.File("good"), s_none);
            var missing = await Assert.ThrowsAsync<DirectoryNotFoundException>(() => conversation.SaveAsync(folder.File("no/such.kv"), s_none));
            Assert.EndsWith($"there is no folder {folder.File("no")}.", missing.Message, StringComparison.Ordinal);
            Assert.Contains("is a folder", (await Assert.ThrowsAsync<IOException>(() => conversation.SaveAsync(folder.Path, s_none))).Message, StringComparison.Ordinal);
            using var cancelled = new CancellationTokenSource();
            await cancelled.CancelAsync();
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => conversation.SaveAsync(folder.File("good"), cancelled.Token));
        }
        Assert.Equal(["good"], Directory.EnumerateFiles(folder.Path).Select(static file => Path.GetFileName(file)));
        var good = await File.ReadAllBytesAsync(folder.File("good"), s_none);
        var header = BitConverter.ToInt32(good, 8);
        await RefusedAsync(good[..^1], "bytes instead of");
        await RefusedAsync(good[..20], "damaged");
        await RefusedAsync([], "no saved conversation");
        await RefusedAsync([.. good, 0], "bytes instead of");
        for (var i = 0; i < 40; i++)
        {
            var bytes = (byte[])good.Clone();
            bytes[i * (good.Length - 1) / 39] ^= 0x10;
            await RefusedAsync(bytes, "");
        }
        foreach (var (from, to) in new[] { ("\"tokenCount\":", "\"tokenCount\":9"), ("\"computed\":", "\"computed\":-"), ("\"layers\":", "\"layers\":1"), ("\"end\":", "\"end\":-"), ("[1,2,", "[2,1,") })
        {
            var json = Encoding.UTF8.GetString(good, 12, header).Replace(from, to, StringComparison.Ordinal);
            byte[] edited = [.. good[..8], .. BitConverter.GetBytes(Encoding.UTF8.GetByteCount(json)), .. Encoding.UTF8.GetBytes(json), .. good[(12 + header)..]];
            await RefusedAsync(edited, "");
        }
        await using var other = await LoadAsync(static options => options.KvCacheType = ErnieKvCacheType.BFloat16);
        var error = await Assert.ThrowsAsync<InvalidDataException>(() => other.RestoreConversationAsync(folder.File("good"), s_none));
        Assert.Contains("KvCacheType", error.Message);
        await Assert.ThrowsAsync<FileNotFoundException>(() => model.RestoreConversationAsync(folder.File("none"), s_none));

        async Task RefusedAsync(byte[] bytes, string expected)
        {
            var file = folder.File("bad");
            await File.WriteAllBytesAsync(file, bytes, s_none);
            var error = await Assert.ThrowsAsync<InvalidDataException>(() => model.RestoreConversationAsync(file, s_none));
            Assert.Contains(file, error.Message);
            Assert.Contains(expected, error.Message);
        }
    }

    [Fact]
    public async Task AForgedFile_AnswersNobodyElse()
    {
        using var folder = new TemporaryFolder();
        await using var model = await LoadAsync();
        var expected = (await AnswerAsync(model, Ids(4, 300), 1)).Tokens;
        await model.ClearPrefixCacheAsync();
        int saved;
        using (var conversation = model.StartConversation())
        {
            await ContinueAsync(conversation, Ids(4, 300), 1);
            saved = conversation.TokenCount;
            await conversation.SaveAsync(folder.File("forged"), s_none);
        }
        await model.ClearPrefixCacheAsync();
        var bytes = await File.ReadAllBytesAsync(folder.File("forged"), s_none);
        var payload = 12 + BitConverter.ToInt32(bytes, 8) + saved * sizeof(int);
        // No numbers at all, under a checksum that is right.
        bytes.AsSpan(payload, bytes.Length - payload - SHA256.HashSizeInBytes).Fill(0xFF);
        SHA256.HashData(bytes.AsSpan(0, bytes.Length - SHA256.HashSizeInBytes)).CopyTo(bytes, bytes.Length - SHA256.HashSizeInBytes);
        await File.WriteAllBytesAsync(folder.File("forged"), bytes, s_none);

        using var restored = await model.RestoreConversationAsync(folder.File("forged"), s_none);
        using var fork = await restored.ForkAsync();
        await ContinueAsync(restored, Ids(5, 200), 2);
        await ContinueAsync(fork, Ids(6, 200), 3);
        var (tokens, cached) = await AnswerAsync(model, Ids(4, 300), 1);
        Assert.Equal(expected, tokens);
        Assert.Equal(0, cached);
    }

    [Fact]
    public async Task Disposing_WaitsForWhoeverReadsTheCache()
    {
        var model = await LoadAsync();
        using var entered = new ManualResetEventSlim();
        using var leave = new ManualResetEventSlim();
        var reading = Task.Run(() => model.OverCache(
            token =>
            {
                entered.Set();
                Assert.True(token.WaitHandle.WaitOne(TimeSpan.FromMinutes(1)));
                leave.Wait(s_none);
                token.ThrowIfCancellationRequested();
            }, s_none), s_none);
        entered.Wait(s_none);
        var disposing = Task.Run(model.Dispose, s_none);
        await Task.Delay(100, s_none);
        Assert.False(disposing.IsCompleted);
        leave.Set();
        await disposing;
        await Assert.ThrowsAsync<ObjectDisposedException>(() => reading);
        Assert.Throws<ObjectDisposedException>(() => model.OverCache(static _ => { }, s_none));
    }

    [Fact]
    public async Task PrefillProgress_CountsUpToThePrompt()
    {
        await using var model = await LoadAsync(static options => options.PrefillChunkTokens = 128);
        var reports = new List<ErniePrefillProgress>();
        var options = new ErnieGenerationOptions { MaxTokens = 2, PrefillProgress = new DirectProgress<ErniePrefillProgress>(reports.Add) };
        await model.GenerateAsync(Ids(1, 300), options, s_none).ToListAsync(s_none);
        Assert.Equal([new(128, 300, 0), new(256, 300, 0), new(300, 300, 0)], reports);
        reports.Clear();
        await model.GenerateAsync(Ids(1, 300), options, s_none).ToListAsync(s_none);
        Assert.Equal([new(300, 300, 256)], reports);
    }

    [Fact]
    public async Task EstimateMemory_GrowsWithTokensAndRequests()
    {
        var path = await TinyModel.ExportedAsync();
        var one = ErnieModel.EstimateMemory(path, 1000);
        Assert.InRange(one.WeightBytes, 0.9 * new FileInfo(Path.Combine(path, "model.weights")).Length, 1.1 * new FileInfo(Path.Combine(path, "model.weights")).Length);
        Assert.Equal(16 * one.KvCacheBytes, ErnieModel.EstimateMemory(path, 1000, 16).KvCacheBytes);
        Assert.InRange(ErnieModel.EstimateMemory(path, 1000, 1, new ErnieModelOptions { KvCacheType = ErnieKvCacheType.Float32 }).KvCacheBytes, 1.9 * one.KvCacheBytes, 2 * one.KvCacheBytes);
        Assert.Equal(one.WeightBytes + one.KvCacheBytes + one.WorkspaceBytes, one.TotalBytes);
        using var empty = new TemporaryFolder();
        Assert.Throws<InvalidDataException>(() => ErnieModel.EstimateMemory(empty.Path, 1000));
    }

    [Fact]
    public async Task EstimateMemory_OfACheckpoint_IsThatOfItsExport()
    {
        var exported = ErnieModel.EstimateMemory(await TinyModel.ExportedAsync(), 1000);
        var asExported = ErnieModel.EstimateMemory(TinyModel.Checkpoint, 1000, options: new ErnieModelOptions { Export = ExportAs.BFloat16 });
        Assert.Equal(exported, asExported);
        // Int4 by default.
        Assert.InRange(ErnieModel.EstimateMemory(TinyModel.Checkpoint, 1000).WeightBytes, 1, exported.WeightBytes / 2);
    }

    private static Task<ErnieModel> LoadAsync(Action<ErnieModelOptions>? configure = null) => TinyModel.LoadAsync(options =>
    {
        options.SparseAttention = s_sparse;
        configure?.Invoke(options);
    });

    private static int[] Ids(int seed, int count)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => random.Next(100, 1400))];
    }

    private static async Task<List<int>> ContinueAsync(ErnieConversation conversation, int[] prompt, int seed, bool sparse = true) =>
        await conversation.ContinueAsync(prompt, new ErnieGenerationOptions { MaxTokens = 150, IgnoreStopTokens = true, Seed = seed, TopP = 1, SparseAttention = sparse ? null : ErnieSparseAttention.Dense }, s_none).ToListAsync(s_none);

    private static async Task<(List<int> Tokens, int Cached)> AnswerAsync(ErnieModel model, int[] prompt, int seed, ErnieSparseAttention? attention = null, int maxTokens = 100)
    {
        var options = new ErnieGenerationOptions { MaxTokens = maxTokens, IgnoreStopTokens = true, Seed = seed, TopP = 1, SparseAttention = attention };
        var tokens = await model.GenerateTokensAsync(prompt, options, s_none).ToListAsync(s_none);
        return ([.. tokens.Select(static token => token.Id)], tokens[0].CachedTokens);
    }
}
