using System.ComponentModel;
using System.Diagnostics;

namespace DesktopChat;

/// <summary>A browser that shows one page as a window. It runs on a profile of its own, which makes it a process of its own, and knows nothing of the user's tabs, cookies and extensions.</summary>
internal sealed class AppWindow : IAsyncDisposable
{
    private readonly Process _browser;
    private readonly string _profile;

    private AppWindow(Process browser, string profile)
    {
        (_browser, _profile) = (browser, profile);
        Exited = browser.WaitForExitAsync();
    }

    public Task Exited { get; }

    /// <returns>Null if the browser does not start.</returns>
    public static AppWindow? Open(string browser, string address)
    {
        var profile = Directory.CreateTempSubdirectory("ernie-chat-").FullName;
        string[] arguments = [$"--app={address}", $"--user-data-dir={profile}", "--window-size=980,760", "--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-extensions", "--disable-sync"];
        try
        {
            // What browsers write about themselves is read and dropped: it would stand among the caller's own lines.
            var process = Process.Start(new ProcessStartInfo(browser, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
            process.OutputDataReceived += static (_, _) => { };
            process.ErrorDataReceived += static (_, _) => { };
            process.BeginOutputReadLine();
            process.BeginErrorReadLine();
            return new AppWindow(process, profile);
        }
        catch (Win32Exception e)
        {
            Console.Error.WriteLine($"{browser} does not start: {e.Message}.");
            Directory.Delete(profile, recursive: true);
            return null;
        }
    }

    public async ValueTask DisposeAsync()
    {
        // Closing saves a profile, which takes a moment.
        await Task.WhenAny(Exited, Task.Delay(TimeSpan.FromSeconds(2)));
        if (!Exited.IsCompleted) _browser.Kill(entireProcessTree: true);
        _browser.Dispose();
        for (var attempt = 0; attempt < 20; attempt++)
        {
            try
            {
                Directory.Delete(_profile, recursive: true);
                return;
            }
            catch (DirectoryNotFoundException)
            {
                return;
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // The last of its processes still write.
                await Task.Delay(100);
            }
        }
    }
}
