using System.Diagnostics;

namespace Ernie.Sdk.Tests.Support;

/// <summary>A small file system in memory, to fill up or to make read-only. Needs Linux and the right to mount; skips the test elsewhere.</summary>
internal sealed class TemporaryMount : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public TemporaryMount(string size)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() && Environment.IsPrivilegedProcess, "Mounting a small file system needs root on Linux.");
        Path = _folder.File("disk");
        Directory.CreateDirectory(Path);
        Assert.SkipUnless(Run("mount", "-t", "tmpfs", "-o", $"size={size}", "tmpfs", Path) == 0, "This system does not allow mounting.");
    }

    public string Path { get; }

    public void MakeReadOnly() => Assert.Equal(0, Run("mount", "-o", "remount,ro", Path));

    public void Dispose()
    {
        _ = Run("umount", "-l", Path);
        _folder.Dispose();
    }

    private static int Run(string file, params string[] arguments)
    {
        using var process = Process.Start(new ProcessStartInfo(file, arguments) { RedirectStandardError = true })!;
        process.WaitForExit();
        return process.ExitCode;
    }
}
