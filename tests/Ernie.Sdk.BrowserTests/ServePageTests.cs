namespace Ernie.Sdk.BrowserTests;

/// <summary>The chat page of <c>ernie serve</c>.</summary>
public sealed class ServePageTests(Chromium chromium) : ChatPageTests(chromium)
{
    private readonly Chromium _chromium = chromium;

    [Fact]
    public async Task Serve_WithAnApiKey_RefusesThePageWithoutIt()
    {
        Chromium.SkipWithout();
        await using var served = await StartAsync("--api-key", "secret");
        await using var page = await _chromium.OpenAsync(served.Address);
        await ChatPage.Expect(page.Page.Locator("#model")).ToContainTextAsync("API key");
        await page.AskAsync("Who are you?");
        await ChatPage.Expect(page.Page.Locator("article.assistant .error")).ToContainTextAsync("API key");

        await page.Page.ClickAsync("#settings summary");
        await page.Page.FillAsync("#apiKey", "secret");
        await page.Page.Locator("#apiKey").BlurAsync();
        await ChatPage.Expect(page.Page.Locator("#model")).ToHaveTextAsync("ernie-tiny-moe");
        await page.AskAsync("What is the capital of Norway?");
        await ChatPage.Expect(page.Answer).ToHaveTextAsync("The capital of Norway is Oslo.");
    }

    private protected override Task<ServedPage> StartAsync(string? model = null, bool think = false) => StartAsync([model ?? Models.Tiny, "--template", think ? "thinking" : "standard"], []);

    private protected override Task ShowLastConversationAsync(ChatPage page) => page.Page.Locator("#conversations li button").First.ClickAsync();

    private static Task<ServedPage> StartAsync(params string[] options) => StartAsync([Models.Tiny], options);

    private static async Task<ServedPage> StartAsync(string[] model, string[] options)
    {
        var program = RunningProgram.Start("ernie.dll", ["serve", .. model, "--urls", "http://127.0.0.1:0", .. options]);
        var line = await program.LineAsync(static line => line.Contains("chat at http", StringComparison.Ordinal));
        return new ServedPage(program, line[(line.IndexOf("http", StringComparison.Ordinal))..line.IndexOf(',', StringComparison.Ordinal)]);
    }
}
