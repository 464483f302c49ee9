using System.Text;
using System.Text.RegularExpressions;

namespace Ernie.Sdk.BrowserTests;

/// <summary>What both chat pages do, in a real browser on a real model.</summary>
public abstract partial class ChatPageTests(Chromium chromium)
{
    private const string Lease = "Clause 3. The late fee is 4,812 yuan per day.\nClause 9. The lease ends on 4 March 2027.\nClause 17. Northwind shall deliver 340 pumps to Oslo.\n";

    [Fact]
    public async Task Page_AnswersRemembersAndStartsOver()
    {
        Chromium.SkipWithout();
        await using var program = await StartAsync();
        await using var page = await chromium.OpenAsync(program.Address);
        await page.AskAsync("What is the capital of Norway?");
        await ChatPage.Expect(page.Answer).ToHaveTextAsync("The capital of Norway is Oslo.");
        await ChatPage.Expect(page.Page.Locator("article.assistant .note")).ToContainTextAsync("12 tokens");
        await page.AskAsync("Who are you?");
        await ChatPage.Expect(page.Answer).ToContainTextAsync("I am a tiny demo model");
        await ChatPage.Expect(page.Messages).ToHaveCountAsync(4);

        // A reload shows the same conversation.
        await page.Page.ReloadAsync();
        await ChatPage.Expect(page.Messages).ToHaveCountAsync(4);
        await ChatPage.Expect(page.Answer).ToContainTextAsync("I am a tiny demo model");

        await page.Page.ClickAsync("#new");
        await ChatPage.Expect(page.Messages).ToHaveCountAsync(0);
        await page.AskAsync("What is 7 plus 8?");
        await ChatPage.Expect(page.Answer).ToContainTextAsync("15");
        // The former conversation is not part of this one.
        await ChatPage.Expect(page.Page.Locator("article.assistant .note")).ToContainTextAsync(ShortPrompt());
    }

    [Fact]
    public async Task Page_AnswersFromADroppedDocument()
    {
        Chromium.SkipWithout();
        await using var program = await StartAsync();
        await using var page = await chromium.OpenAsync(program.Address);
        await ChatPage.Expect(page.Send).ToBeEnabledAsync();
        await page.DropAsync("lease.txt", Convert.ToBase64String(Encoding.UTF8.GetBytes(Lease)));
        await ChatPage.Expect(page.Page.Locator("#documents li")).ToContainTextAsync(Counted());
        await page.AskAsync("What is the late fee in clause 3?");
        await ChatPage.Expect(page.Answer).ToHaveTextAsync("The late fee in clause 3 is 4,812 yuan per day.");
        await ChatPage.Expect(page.Page.Locator("#documents li")).ToHaveCountAsync(0);
        await ChatPage.Expect(page.Page.Locator("article.user")).ToContainTextAsync("lease.txt");
        await page.AskAsync("Who are you?");
        await ChatPage.Expect(page.Answer).ToContainTextAsync("I am a tiny demo model");
        await ChatPage.Expect(page.Send).ToBeVisibleAsync();
        await page.PictureAsync(GetType().Name + "-document");
    }

    [Fact]
    public async Task Page_WritesAsTheModelDoesAndStops()
    {
        Chromium.SkipWithout();
        using var folder = new TemporaryFolder();
        Models.WriteEndless(folder.File("endless"));
        await using var program = await StartAsync(folder.File("endless"));
        await using var page = await chromium.OpenAsync(program.Address);
        await page.AskAsync("What is the capital of Norway?");
        // It is shown while it grows.
        await ChatPage.Expect(page.Answer).ToContainTextAsync("Oslo");
        await ChatPage.Expect(page.Stop).ToBeVisibleAsync();
        await ChatPage.Expect(page.Send).ToBeHiddenAsync();
        var early = (await page.Answer.InnerTextAsync()).Length;
        await page.Page.WaitForFunctionAsync("length => document.querySelector('#messages article.assistant > .text').textContent.length > length + 100", early);
        await page.Stop.ClickAsync();
        await ChatPage.Expect(page.Page.Locator("article.assistant .note")).ToContainTextAsync(Stopped());
        await ChatPage.Expect(page.Send).ToBeVisibleAsync();
        var kept = await page.Answer.InnerTextAsync();
        Assert.StartsWith("The capital of Norway is Oslo.", kept, StringComparison.Ordinal);
        // The engine is free: the next answer begins, and the stopped one has not grown.
        await page.AskAsync("Who are you?");
        await ChatPage.Expect(page.Messages).ToHaveCountAsync(4);
        await ChatPage.Expect(page.Answer).Not.ToBeEmptyAsync();
        Assert.Equal(kept, await page.Page.Locator("#messages article.assistant > .text").First.InnerTextAsync());
        await page.Input.PressAsync("Escape");
        await ChatPage.Expect(page.Page.Locator("article.assistant .note").Last).ToContainTextAsync(Stopped());

        // A reload in the middle of an answer keeps what was written.
        await page.AskAsync("Who are you?");
        await ChatPage.Expect(page.Messages).ToHaveCountAsync(6);
        await ChatPage.Expect(page.Answer).Not.ToBeEmptyAsync();
        await page.Page.ReloadAsync();
        await ChatPage.Expect(page.Messages).ToHaveCountAsync(6);
        await ChatPage.Expect(page.Answer).Not.ToBeEmptyAsync();
        await ChatPage.Expect(page.Page.Locator("article.assistant .note").Last).ToContainTextAsync(Stopped());
    }

    [Fact]
    public async Task Page_FoldsReasoning()
    {
        Chromium.SkipWithout();
        await using var program = await StartAsync(think: true);
        await using var page = await chromium.OpenAsync(program.Address);
        await page.AskAsync("What is the capital of Norway?");
        await ChatPage.Expect(page.Answer).ToHaveTextAsync("The capital of Norway is Oslo.");
        var reasoning = page.Page.Locator("article.assistant details");
        await ChatPage.Expect(reasoning.Locator(".text")).ToBeHiddenAsync();
        await reasoning.Locator("summary").ClickAsync();
        await ChatPage.Expect(reasoning.Locator(".text")).ToBeVisibleAsync();
        await ChatPage.Expect(reasoning.Locator(".text")).Not.ToBeEmptyAsync();
        await page.PictureAsync(GetType().Name + "-reasoning");
    }

    [Fact]
    public async Task Page_ShowsMarkupAsText()
    {
        Chromium.SkipWithout();
        await using var program = await StartAsync();
        await using var page = await chromium.OpenAsync(program.Address);
        const string Markup = "<img src=x onerror=\"document.title='broken'\"><b>bold</b>";
        await page.AskAsync(Markup);
        await ChatPage.Expect(page.Page.Locator("article.user > .text")).ToHaveTextAsync(Markup);
        await ChatPage.Expect(page.Page.Locator("article.assistant .note")).ToContainTextAsync("token");
        Assert.Equal(0, await page.Page.Locator("#messages img, #messages b").CountAsync());
    }

    /// <summary>Starts what serves the page, on the tiny model where no other is named.</summary>
    private protected abstract Task<ServedPage> StartAsync(string? model = null, bool think = false);

    [GeneratedRegex("[Ss]topped")]
    private static partial Regex Stopped();

    [GeneratedRegex("lease.txt.*62 tokens")]
    private static partial Regex Counted();

    [GeneratedRegex("^1[0-9] (prompt )?tokens")]
    private static partial Regex ShortPrompt();

    private protected sealed record ServedPage(RunningProgram Program, string Address) : IAsyncDisposable
    {
        public ValueTask DisposeAsync() => Program.DisposeAsync();
    }
}
