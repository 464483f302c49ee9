using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>The shipped model and its chat client, for one test.</summary>
public abstract class TinyChat(ErnieChatTemplate template = ErnieChatTemplate.Auto) : IAsyncLifetime
{
    protected const string Question = "Who are you?";

    protected ErnieModel Model { get; private set; } = null!;

    protected IChatClient Client { get; private set; } = null!;

    protected static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        Model = await TinyModel.LoadAsync(o => o.ChatTemplate = template);
        Client = Model.AsChatClient();
    }

    public async ValueTask DisposeAsync()
    {
        await Model.DisposeAsync();
        GC.SuppressFinalize(this);
    }
}
