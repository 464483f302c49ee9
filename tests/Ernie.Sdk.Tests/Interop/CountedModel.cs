using Ernie.Sdk.Kernels;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Interop;

/// <summary>The shipped model in the template whose tools it was trained on, with a count of what it computed.</summary>
internal sealed class CountedModel : IAsyncDisposable
{
    private readonly ErnieModel _model;
    private readonly StrongBox _computed;

    private CountedModel(ErnieModel model, StrongBox computed) => (_model, _computed, Client) = (model, computed, model.AsChatClient());

    public IChatClient Client { get; }

    /// <summary>Matrix products so far: the same number before and after means that the model did not run.</summary>
    public int Computed => Volatile.Read(ref _computed.Count);

    public static async Task<CountedModel> LoadAsync()
    {
        var computed = new StrongBox();
        var model = await TinyModel.LoadAsync(options =>
        {
            options.ChatTemplate = ErnieChatTemplate.Thinking;
            options.Kernels = new HookedKernels(KernelRegistry.Choose(), _ => Interlocked.Increment(ref computed.Count));
        });
        return new CountedModel(model, computed);
    }

    /// <summary>Greedy, and long enough for what the model was trained on.</summary>
    public static ChatOptions Greedy(params AITool[] tools) => new() { Temperature = 0, MaxOutputTokens = 120, Tools = tools.Length == 0 ? null : [.. tools] };

    public ValueTask DisposeAsync() => _model.DisposeAsync();

    private sealed class StrongBox
    {
        public int Count;
    }
}
