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
        await ChatPage.Expect(page.Page.Locator("#notice")).ToContainTextAsync("Enter it under Settings");
        // Where it goes is open, and waits for it.
        await ChatPage.Expect(page.Page.Locator("#apiKey")).ToBeFocusedAsync();
        await page.PictureAsync("serve-api-key");
        await page.AskAsync("Who are you?");
        await ChatPage.Expect(page.Page.Locator("article.assistant .error")).ToContainTextAsync("API key");

        await page.Page.FillAsync("#apiKey", "wrong");
        await page.Page.Locator("#apiKey").BlurAsync();
        await ChatPage.Expect(page.Page.Locator("#notice")).ToContainTextAsync("The API key is wrong");
        await page.Page.FillAsync("#apiKey", "secret");
        await page.Page.Locator("#apiKey").BlurAsync();
        await ChatPage.Expect(page.Page.Locator("#model")).ToHaveTextAsync("ernie-tiny-moe");
        await ChatPage.Expect(page.Page.Locator("#notice")).ToBeHiddenAsync();
        await page.AskAsync("What is the capital of Norway?");
        await ChatPage.Expect(page.Answer).ToHaveTextAsync("The capital of Norway is Oslo.");
    }

    [Fact]
    public async Task NarrowWindow_HasAMenu()
    {
        Chromium.SkipWithout();
        await using var served = await StartAsync();
        await using var page = await _chromium.OpenAsync(served.Address);
        await page.AskAsync("What is the capital of Norway?");
        await ChatPage.Expect(page.Answer).ToHaveTextAsync("The capital of Norway is Oslo.");
        await ChatPage.Expect(page.Page.Locator("#menu")).ToBeHiddenAsync();
        await page.Page.SetViewportSizeAsync(390, 700);
        await ChatPage.Expect(page.Page.Locator("#side")).ToBeHiddenAsync();
        await page.PictureAsync("serve-narrow", 390, 700);
        foreach (var part in new[] { "#new", "#conversations", "#settings" })
        {
            await page.Page.ClickAsync("#menu");
            await ChatPage.Expect(page.Page.Locator(part)).ToBeVisibleAsync();
            await page.Page.Keyboard.PressAsync("Escape");
            await ChatPage.Expect(page.Page.Locator(part)).ToBeHiddenAsync();
        }
        await page.Page.ClickAsync("#menu");
        await page.Page.ClickAsync("#settings summary");
        await ChatPage.Expect(page.Page.Locator("#apiKey")).ToBeVisibleAsync();
        await page.PictureAsync("serve-narrow-menu", 390, 700);
        await page.Page.ClickAsync("#new");
        await ChatPage.Expect(page.Messages).ToHaveCountAsync(0);
        await ChatPage.Expect(page.Page.Locator("#side")).ToBeHiddenAsync();
    }

    [Fact]
    public async Task EmptyPage_OffersWhatTheTinyModelKnows()
    {
        Chromium.SkipWithout();
        await using var served = await StartAsync();
        await using var page = await _chromium.OpenAsync(served.Address);
        var example = page.Page.Locator(".welcome button").First;
        await ChatPage.Expect(example).ToHaveTextAsync("What is the capital of Norway?");
        await page.PictureAsync("serve-empty");
        await example.ClickAsync();
        await ChatPage.Expect(page.Answer).ToHaveTextAsync("The capital of Norway is Oslo.");
        await ChatPage.Expect(page.Page.Locator(".welcome")).ToHaveCountAsync(0);
        // It has an answer to each.
        await page.Page.ClickAsync("#new");
        var questions = await page.Page.Locator(".welcome button").AllInnerTextsAsync();
        Assert.Equal(4, questions.Count);
    }

    [Fact]
    public async Task ServerThatIsGone_IsToldInPlainWords()
    {
        Chromium.SkipWithout();
        var served = await StartAsync();
        await using var page = await _chromium.OpenAsync(served.Address);
        await ChatPage.Expect(page.Page.Locator("#model")).ToHaveTextAsync("ernie-tiny-moe");
        await served.DisposeAsync();
        await page.AskAsync("Who are you?");
        await ChatPage.Expect(page.Page.Locator("article.assistant .error")).ToContainTextAsync("The server does not answer");
    }

    [Fact]
    public async Task Answers_AreSetOut_AndNothingInThemIsHtml()
    {
        Chromium.SkipWithout();
        await using var served = await StartAsync();
        await using var page = await _chromium.OpenAsync(served.Address);
        await page.AskAsync("What is the capital of Norway?");
        await ChatPage.Expect(page.Answer).ToHaveTextAsync("The capital of Norway is Oslo.");
        const string Text = """
            ## Pumps & <b>valves</b>

            Two **kinds**, by `type`; 2 ** 3 and a_b stay, <script>document.title='broken'</script> too.
            Second line <img src=x onerror="document.title='broken'">

            1. first **<i>bold</i>**
               goes on
               - inner `<u>`
            2. second

            | Name | Price |
            |:-----|------:|
            | Pump <img src=x onerror="document.title='broken'"> | **4** |
            | Valve |

            ```html
            <p onclick="x()">**not bold**</p>
            ```
            [link](javascript:alert(1))
            **open
            """;
        await page.Page.EvaluateAsync("text => markdown(document.querySelector('#messages article.assistant > .text'), text)", Text);
        await page.PictureAsync("serve-markdown");
        async Task ShowsAsync(string selector, params string[] texts) => Assert.Equal(texts, await page.Answer.Locator(selector).AllTextContentsAsync());
        await ShowsAsync(".heading", "Pumps & <b>valves</b>");
        await ShowsAsync("strong", "kinds", "<i>bold</i>", "4");
        await ShowsAsync("code", "type", "<u>");
        await ShowsAsync(":scope > ol > li", "first <i>bold</i>\ngoes oninner <u>", "second");
        await ShowsAsync("ol ul li", "inner <u>");
        await ShowsAsync("th", "Name", "Price");
        await ShowsAsync("td", "Pump <img src=x onerror=\"document.title='broken'\">", "4", "Valve", "");
        await ShowsAsync("pre", "<p onclick=\"x()\">**not bold**</p>");
        await ShowsAsync("p", "Two kinds, by type; 2 ** 3 and a_b stay, <script>document.title='broken'</script> too.\nSecond line <img src=x onerror=\"document.title='broken'\">", "[link](javascript:alert(1))\n**open");
        Assert.Equal(0, await page.Answer.Locator("script, img, a, b, i, u, [onclick]").CountAsync());
        Assert.Equal("ernie-tiny-moe", await page.Page.TitleAsync());

        // Whatever a model writes, and wherever it stops: all of its letters are there, and the page lives.
        var random = new Random(1);
        string[] pieces = ["**", "`", "```", "\n", "\n\n", "- ", "1. ", "| ", "|---|", "# ", "  ", "a", "<b>", "&lt;", "中"];
        for (var i = 0; i < 300; i++)
        {
            var text = string.Concat(Enumerable.Range(0, random.Next(40)).Select(_ => pieces[random.Next(pieces.Length)]));
            await page.Page.EvaluateAsync("text => markdown(document.querySelector('#messages article.assistant > .text'), text)", text);
            var shown = await page.Answer.TextContentAsync();
            Assert.Equal(text.Count(static c => c is 'a'), shown!.Count(static c => c is 'a'));
            Assert.Equal(0, await page.Answer.Locator("b").CountAsync());
        }
    }

    private protected override Task<ServedPage> StartAsync(string? model = null, bool think = false) => StartAsync([model ?? Models.Tiny, "--template", think ? "thinking" : "standard"], []);

    private static Task<ServedPage> StartAsync(params string[] options) => StartAsync([Models.Tiny], options);

    private static async Task<ServedPage> StartAsync(string[] model, string[] options)
    {
        var program = RunningProgram.Start("ernie.dll", ["serve", .. model, "--urls", "http://127.0.0.1:0", .. options]);
        var line = await program.LineAsync(static line => line.Contains("chat at http", StringComparison.Ordinal));
        return new ServedPage(program, line[(line.IndexOf("http", StringComparison.Ordinal))..line.IndexOf(',', StringComparison.Ordinal)]);
    }
}
