[assembly: AssemblyFixture(typeof(Ernie.Sdk.BrowserTests.Chromium))]

namespace Ernie.Sdk.BrowserTests;

/// <summary>The browser that this machine has, without a window; nothing is ever downloaded. Tests skip where there is none.</summary>
public sealed class Chromium : IAsyncLifetime
{
    private IPlaywright? _playwright;
    private IBrowser? _browser;

    /// <summary>Chromium or Chrome, from the path.</summary>
    public static string? Executable { get; } = new[] { "chromium", "chromium-browser", "google-chrome" }
        .SelectMany(static _ => (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries), static (name, folder) => Path.Combine(folder, name))
        .FirstOrDefault(File.Exists);

    /// <summary>What a browser wants that runs without a screen, here as root.</summary>
    public static IReadOnlyList<string> Arguments { get; } = Environment.UserName == "root" ? ["--no-sandbox"] : [];

    public static void SkipWithout() => Assert.SkipWhen(Executable is null, "There is no browser: install chromium (apt-get install chromium).");

    public async ValueTask InitializeAsync()
    {
        if (Executable is null) return;
        _playwright = await Playwright.CreateAsync();
        _browser = await _playwright.Chromium.LaunchAsync(new() { ExecutablePath = Executable, Args = Arguments });
    }

    /// <summary>A page that shares nothing with others. It may reach this machine only, and what its scripts throw fails the test when it is disposed.</summary>
    internal async Task<ChatPage> OpenAsync(string address)
    {
        SkipWithout();
        var context = await _browser!.NewContextAsync();
        return await ChatPage.OpenAsync(context, address);
    }

    public async ValueTask DisposeAsync()
    {
        if (_browser is not null) await _browser.DisposeAsync();
        _playwright?.Dispose();
    }
}
