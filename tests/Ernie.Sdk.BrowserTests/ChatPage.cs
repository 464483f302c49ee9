namespace Ernie.Sdk.BrowserTests;

/// <summary>A chat page in the browser. Both pages of this repository name their parts alike.</summary>
internal sealed class ChatPage : IAsyncDisposable
{
    // Exporting the tiny model on a busy machine takes a while.
    private const float Patience = 60_000;

    private readonly IBrowserContext _context;
    private readonly List<string> _faults = [];

    private ChatPage(IBrowserContext context, IPage page)
    {
        (_context, Page) = (context, page);
        page.PageError += (_, error) => _faults.Add($"script: {error}");
        page.Request += (_, request) =>
        {
            if (new Uri(request.Url) is { Scheme: not "data", Host: not "127.0.0.1" }) _faults.Add($"not offline: {request.Url}");
        };
    }

    public IPage Page { get; }

    public ILocator Input => Page.Locator("#input");
    public ILocator Send => Page.Locator("#send");
    public ILocator Stop => Page.Locator("#stop");
    public ILocator Messages => Page.Locator("#messages article");

    /// <summary>The text of the last answer, without its reasoning and notes.</summary>
    public ILocator Answer => Page.Locator("#messages article.assistant > .text").Last;

    public static async Task<ChatPage> OpenAsync(IBrowserContext context, string address)
    {
        context.SetDefaultTimeout(Patience);
        var page = new ChatPage(context, await context.NewPageAsync());
        await page.Page.GotoAsync(address);
        return page;
    }

    public static ILocatorAssertions Expect(ILocator locator)
    {
        Assertions.SetDefaultExpectTimeout(Patience);
        return Assertions.Expect(locator);
    }

    /// <summary>Types a question and sends it as a user does.</summary>
    public async Task AskAsync(string question)
    {
        await Expect(Send).ToBeEnabledAsync();
        await Input.FillAsync(question);
        await Input.PressAsync("Enter");
    }

    /// <summary>Drags a file from elsewhere over the page and lets it go.</summary>
    public async Task DropAsync(string name, string base64)
    {
        var transfer = await Page.EvaluateHandleAsync("""
            ([name, base64]) => {
              const transfer = new DataTransfer();
              transfer.items.add(new File([Uint8Array.from(atob(base64), c => c.charCodeAt(0))], name));
              return transfer;
            }
            """, new[] { name, base64 });
        await Page.DispatchEventAsync("body", "dragover", new { dataTransfer = transfer });
        await Expect(Page.Locator("#drop")).ToBeVisibleAsync();
        await Page.DispatchEventAsync("body", "drop", new { dataTransfer = transfer });
        await Expect(Page.Locator("#drop")).ToBeHiddenAsync();
    }

    /// <summary>Keeps what the page shows as a file, where the variable ERNIE_SCREENSHOTS names a folder: the pictures of the documentation are made so.</summary>
    public async Task PictureAsync(string name, int width = 920, int height = 620)
    {
        if (Environment.GetEnvironmentVariable("ERNIE_SCREENSHOTS") is not { Length: > 0 } folder) return;
        await Page.SetViewportSizeAsync(width, height);
        await Page.ScreenshotAsync(new() { Path = Path.Combine(folder, name + ".png") });
    }

    public async ValueTask DisposeAsync()
    {
        await _context.DisposeAsync();
        Assert.Empty(_faults);
    }
}
