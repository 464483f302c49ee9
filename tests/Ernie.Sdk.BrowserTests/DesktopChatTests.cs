using System.Text.RegularExpressions;

namespace Ernie.Sdk.BrowserTests;

/// <summary>The page and the window of the sample DesktopChat.</summary>
public sealed partial class DesktopChatTests(Chromium chromium) : ChatPageTests(chromium)
{
    private readonly Chromium _chromium = chromium;

    [Fact]
    public async Task Window_ShowsTheLoad_OtherPagesAreRefused_AndTheProgramEndsWithIt()
    {
        Chromium.SkipWithout();
        await using var served = await StartAsync();
        await using (var page = await _chromium.OpenAsync(served.Address))
        {
            await ChatPage.Expect(page.Page.Locator("#loading progress")).ToBeVisibleAsync();
            await ChatPage.Expect(page.Page.Locator("#loadingTitle")).ToContainTextAsync("ernie-tiny-moe");
            await ChatPage.Expect(page.Page.Locator("#light.ready")).ToBeVisibleAsync();
            await ChatPage.Expect(page.Page.Locator("#figures")).ToContainTextAsync(Memory());
            // What anybody else may know: the address of the start, which is spent, and the port.
            foreach (var other in new[] { served.Address, new Uri(new Uri(served.Address), "/").ToString() })
            {
                await using var refused = await _chromium.OpenAsync(other);
                await ChatPage.Expect(refused.Page.Locator("body")).ToHaveTextAsync("This address belongs to another window, or was used already.");
            }
        }
        await served.Program.EndAsync();
        Assert.Equal(0, served.Program.ExitCode);
    }

    [Fact]
    public async Task Window_TakesAnotherModelAndTellsWhatIsWrongWithOne()
    {
        Chromium.SkipWithout();
        await using var served = await StartAsync(Path.Combine(AppContext.BaseDirectory, "no-such-model"));
        await using var page = await _chromium.OpenAsync(served.Address);
        await ChatPage.Expect(page.Page.Locator("#failure")).ToContainTextAsync("no-such-model");
        await ChatPage.Expect(page.Send).ToBeDisabledAsync();
        await page.Page.ClickAsync("#chooseOther");
        await ChatPage.Expect(page.Page.Locator("#folders .problem")).ToBeVisibleAsync();
        await page.Page.FillAsync("#path", AppContext.BaseDirectory);
        await page.Page.Locator("#path").BlurAsync();
        await page.Page.Locator("#folders button", new() { HasText = "ernie-tiny-moe" }).ClickAsync();
        await page.Page.ClickAsync("#open");
        await page.AskAsync("What is the capital of Norway?");
        await ChatPage.Expect(page.Answer).ToHaveTextAsync("The capital of Norway is Oslo.");
    }

    [Fact]
    public async Task Window_RefusesADocumentThatIsNoText()
    {
        Chromium.SkipWithout();
        await using var served = await StartAsync();
        await using var page = await _chromium.OpenAsync(served.Address);
        await page.DropAsync("picture.png", Convert.ToBase64String([0x89, 0x50, 0x4E, 0x47, 0, 1, 2]));
        await ChatPage.Expect(page.Page.Locator("#notice")).ToContainTextAsync("picture.png is no plain text");
        await ChatPage.Expect(page.Page.Locator("#documents li")).ToHaveCountAsync(0);
    }

    [Fact]
    public async Task Window_IsTheBrowsersAppWindow_AndItsEndIsTheProgramsEnd()
    {
        Chromium.SkipWithout();
        if (!OperatingSystem.IsLinux())
        {
            Assert.Skip("The browser is wrapped in a shell script.");
            return;
        }
        using var folder = new TemporaryFolder();
        // The program starts the browser as on a desktop; the script only takes its screen away and ends it after a while, as a user does who closes the window.
        var browser = folder.File("browser");
        await File.WriteAllTextAsync(browser, $"#!/bin/sh\necho \"$@\" > '{folder.File("arguments")}'\nexec timeout 25 {Chromium.Executable} --headless=new {string.Join(' ', Chromium.Arguments)} \"$@\"\n", TestContext.Current.CancellationToken);
        File.SetUnixFileMode(browser, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        await using var program = RunningProgram.Start("DesktopChat.dll", "--model", Models.Tiny, "--browser", browser);
        await program.EndAsync();
        Assert.Equal((0, ""), (program.ExitCode, program.Output));
        var arguments = await File.ReadAllTextAsync(folder.File("arguments"), TestContext.Current.CancellationToken);
        Assert.StartsWith("--app=http://127.0.0.1:", arguments, StringComparison.Ordinal);
        // Its profile is gone.
        Assert.False(Directory.Exists(Profile().Match(arguments).Groups[1].Value));
    }

    private protected override async Task<ServedPage> StartAsync(string? model = null, bool think = false)
    {
        var program = RunningProgram.Start("DesktopChat.dll", ["--model", model ?? Models.Tiny, "--browser", "none", .. think ? ["--think"] : Array.Empty<string>()]);
        return new ServedPage(program, (await program.LineAsync(static line => line.StartsWith("Open http://127.0.0.1:", StringComparison.Ordinal))).Split(' ')[1]);
    }

    [GeneratedRegex("[0-9]+ MB")]
    private static partial Regex Memory();

    [GeneratedRegex("--user-data-dir=(\\S+)")]
    private static partial Regex Profile();
}
