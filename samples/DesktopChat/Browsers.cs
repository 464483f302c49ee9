using System.ComponentModel;
using System.Diagnostics;

namespace DesktopChat;

/// <summary>Browsers of this machine that can show a page as a window of its own.</summary>
internal static class Browsers
{
    private static readonly string[] s_unix = ["google-chrome", "google-chrome-stable", "chromium", "chromium-browser", "microsoft-edge", "microsoft-edge-stable", "brave-browser"];
    private static readonly string[] s_mac = ["Google Chrome", "Microsoft Edge", "Chromium", "Brave Browser"];
    private static readonly string[] s_windows = [@"Microsoft\Edge\Application\msedge.exe", @"Google\Chrome\Application\chrome.exe", @"Chromium\Application\chrome.exe", @"BraveSoftware\Brave-Browser\Application\brave.exe"];

    public static IEnumerable<string> Installed() => Candidates().Where(File.Exists);

    /// <summary>Why no window can be shown here; null where one can, or nobody knows.</summary>
    public static string? MissingDisplay() =>
        OperatingSystem.IsLinux() && string.IsNullOrEmpty(Environment.GetEnvironmentVariable("DISPLAY")) && string.IsNullOrEmpty(Environment.GetEnvironmentVariable("WAYLAND_DISPLAY"))
            ? "There is no display to show a window on (neither DISPLAY nor WAYLAND_DISPLAY is set)." : null;

    /// <summary>Asks the system to open an address. Where nothing can, the user has the printed address.</summary>
    public static void OpenDefault(string address)
    {
        try
        {
            Process.Start(new ProcessStartInfo(address) { UseShellExecute = true })?.Dispose();
        }
        catch (Exception e) when (e is Win32Exception or InvalidOperationException or PlatformNotSupportedException)
        {
        }
    }

    private static IEnumerable<string> Candidates()
    {
        if (OperatingSystem.IsWindows())
        {
            var roots = new[] { Environment.SpecialFolder.ProgramFilesX86, Environment.SpecialFolder.ProgramFiles, Environment.SpecialFolder.LocalApplicationData }.Select(Environment.GetFolderPath);
            return s_windows.SelectMany(_ => roots, static (browser, root) => Path.Combine(root, browser));
        }
        if (OperatingSystem.IsMacOS()) return s_mac.Select(static name => $"/Applications/{name}.app/Contents/MacOS/{name}");
        var folders = (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries);
        return s_unix.SelectMany(_ => folders, static (browser, folder) => Path.Combine(folder, browser));
    }
}
