using Ernie.Sdk.GpuTests.Models;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Tests.Engine;

/// <summary>Copies of the cache that an emulated GPU fails while a conversation is forked, saved, restored or cut: the conversation goes on as before, and no block is lost.</summary>
[Collection(FakeCuda.Collection)]
public sealed class GpuConversationFaultTests : IDisposable
{
    private readonly LimitedGpu _gpu = new();
    private readonly TemporaryFolder _folder = new();

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose()
    {
        _gpu.Dispose();
        _folder.Dispose();
    }

    [Theory]
    [InlineData("cuMemcpyDtoDAsync_v2", 1)]
    [InlineData("cuMemcpyDtoDAsync_v2", 4)]
    [InlineData("cuMemcpyDtoHAsync_v2", 3)]
    [InlineData("cuMemcpyHtoDAsync_v2", 7)]
    public async Task ACopyThatFails_LosesNoBlock_AndTheConversationGoesOn(string call, int nth)
    {
        await using (var model = await _gpu.LoadAsync(await TinyModel.ExportedAsync(), null, configure: static options => options.PrefixCacheBytes = 0))
        {
            using (var conversation = model.StartConversation())
            {
                // One block is full, the next one is not.
                await Continue(conversation, LoadedModels.Ids(5, 140));
                await conversation.SaveAsync(_folder.File("saved"), Token);
                List<int> expected;
                using (var fork = await conversation.ForkAsync()) expected = await Continue(fork, [9, 30]);

                _gpu.Driver.Fail(call, (CudaResult)700, nth);
                var failure = await Record.ExceptionAsync(() => call switch
                {
                    "cuMemcpyDtoDAsync_v2" => conversation.ForkAsync(),
                    "cuMemcpyDtoHAsync_v2" => conversation.SaveAsync(_folder.File("again"), Token),
                    _ => model.RestoreConversationAsync(_folder.File("saved"), Token),
                });
                Assert.Matches("Fake GPU 0 .* failed to copy a part of the KV cache: .*CUDA_ERROR_ILLEGAL_ADDRESS", Assert.IsType<InvalidOperationException>(failure).Message);
                Assert.Equal([_folder.File("saved")], Directory.GetFiles(_folder.Path, "*", SearchOption.TopDirectoryOnly));

                using (var fork = await conversation.ForkAsync()) Assert.Equal(expected, await Continue(fork, [9, 30]));
                Assert.Equal(expected, await Continue(conversation, [9, 30]));
            }
            await model.ClearPrefixCacheAsync();
            await model.ClearPrefixCacheAsync();
            Assert.Equal(model.KvBlocks.All, model.KvBlocks.Free);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    /// <summary>The conversation is cut inside of a block that a fork reads too, and gets no copy of it.</summary>
    [Fact]
    public async Task ACutThatFails_HasItsTokensComputedAgain()
    {
        await using (var model = await _gpu.LoadAsync(await TinyModel.ExportedAsync(), null, configure: static options => options.PrefixCacheBytes = 0))
        {
            using (var conversation = model.StartConversation())
            {
                await Continue(conversation, LoadedModels.Ids(5, 140));
                using var fork = await conversation.ForkAsync();
                using var other = await conversation.ForkAsync();
                await other.RewindAsync(100);
                var expected = await Continue(other, [9, 30]);

                _gpu.Driver.Fail("cuMemcpyDtoDAsync_v2", (CudaResult)700, 2);
                var failure = await Record.ExceptionAsync(() => conversation.RewindAsync(100));
                Assert.Matches("Fake GPU 0 .* failed to copy a part of the KV cache: .*CUDA_ERROR_ILLEGAL_ADDRESS", Assert.IsType<InvalidOperationException>(failure).Message);
                Assert.Equal(100, conversation.TokenCount);
                Assert.Equal(expected, await Continue(conversation, [9, 30]));
                await fork.RewindAsync(100);
                Assert.Equal(expected, await Continue(fork, [9, 30]));
            }
            await model.ClearPrefixCacheAsync();
            await model.ClearPrefixCacheAsync();
            Assert.Equal(model.KvBlocks.All, model.KvBlocks.Free);
        }
        _gpu.Driver.AssertNothingIsLeft();
    }

    private static Task<List<int>> Continue(ErnieConversation conversation, int[] ids) =>
        conversation.ContinueAsync(ids, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 3, IgnoreStopTokens = true }, Token).ToListAsync(Token).AsTask();
}
