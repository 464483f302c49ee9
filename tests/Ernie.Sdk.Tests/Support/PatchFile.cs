namespace Ernie.Sdk.Tests.Support;

/// <summary>Patches, judged by the command <c>git</c>. Tests that need it skip where it is not installed.</summary>
internal static class PatchFile
{
    public static async Task GitAsync(string folder, params string[] arguments)
    {
        var result = await RunAsync(folder, "", arguments);
        Assert.True(result.ExitCode == 0, $"git {string.Join(' ', arguments)}: {result.Error}");
    }

    /// <summary>Changes the files of a folder by a patch, which must fit exactly.</summary>
    public static async Task ApplyAsync(string folder, string patch)
    {
        if (patch.Length == 0) return;
        foreach (var check in new[] { true, false })
        {
            var result = await RunAsync(folder, patch, check ? ["apply", "--check", "-"] : ["apply", "--whitespace=nowarn", "-"]);
            Assert.True(result.ExitCode == 0, $"{result.Error}\n{patch}");
            Assert.DoesNotContain("Hunk", result.Error, StringComparison.Ordinal);
        }
    }

    private static async Task<ChildProcess.Result> RunAsync(string folder, string input, string[] arguments)
    {
        try
        {
            // Neither a repository around the temporary folder nor settings of the user have a say.
            return await ChildProcess.RunAsync("git", ["-c", "core.autocrlf=false", "-c", "core.quotePath=true", .. arguments], folder, input: input, environment: new Dictionary<string, string> { ["GIT_CONFIG_GLOBAL"] = "/dev/null" });
        }
        catch (System.ComponentModel.Win32Exception)
        {
            Assert.Skip("git is not installed.");
            throw;
        }
    }
}
