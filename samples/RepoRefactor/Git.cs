using System.ComponentModel;
using System.Diagnostics;
using System.Text;

namespace RepoRefactor;

/// <summary>What is asked of the command git, where it is installed.</summary>
internal static class Git
{
    /// <summary>Files that are tracked, or new and not ignored; null where there is no work tree or no git.</summary>
    public static IReadOnlyList<string>? Files(string root)
    {
        if (Start(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard") is not { } git) return null;
        using (git)
        {
            git.StandardInput.Close();
            git.ErrorDataReceived += static (_, _) => { };
            git.BeginErrorReadLine();
            var output = git.StandardOutput.ReadToEnd();
            git.WaitForExit();
            return git.ExitCode == 0 ? [.. output.Split('\0', StringSplitOptions.RemoveEmptyEntries).Distinct()] : null;
        }
    }

    /// <summary>Whether git would not apply the diff, and what there is to say.</summary>
    public static async Task<(bool Refuses, string Message)> CheckAsync(string root, string diff, CancellationToken cancellationToken)
    {
        if (Start(root, "apply", "--check", "-") is not { } git) return (false, "git is not installed: whether the diff applies was not checked.");
        using (git)
        {
            await git.StandardInput.WriteAsync(diff.AsMemory(), cancellationToken);
            git.StandardInput.Close();
            var error = await git.StandardError.ReadToEndAsync(cancellationToken);
            await git.WaitForExitAsync(cancellationToken);
            return git.ExitCode == 0 ? (false, $"git apply --check: the diff applies. To change the files: git -C \"{root}\" apply \"$PWD/change.diff\"") : (true, $"git apply --check: {error.Trim()}");
        }
    }

    private static Process? Start(string root, params string[] arguments)
    {
        var utf8 = new UTF8Encoding(false);
        var start = new ProcessStartInfo("git", arguments)
        {
            WorkingDirectory = root,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            StandardInputEncoding = utf8,
            StandardOutputEncoding = utf8,
        };
        try
        {
            return Process.Start(start);
        }
        catch (Win32Exception)
        {
            return null;
        }
    }
}
