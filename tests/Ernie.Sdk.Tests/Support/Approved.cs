namespace Ernie.Sdk.Tests.Support;

/// <summary>Text that a person has approved, in a file of this project. <c>ERNIE_APPROVE=1</c> writes the files anew, for a person to look at the difference.</summary>
internal static class Approved
{
    /// <param name="file">Path under the test project.</param>
    /// <param name="actual">What must stand there.</param>
    public static void Equal(string file, string actual)
    {
        var path = Path.Combine([SharedData.RepositoryRoot, "tests", "Ernie.Sdk.Tests", .. file.Split('/')]);
        actual = actual.ReplaceLineEndings("\n").TrimEnd() + "\n";
        if (Environment.GetEnvironmentVariable("ERNIE_APPROVE") == "1") File.WriteAllText(path, actual);
        Assert.True(File.Exists(path), $"{path} is missing. Run this test with ERNIE_APPROVE=1 and look at what it writes.");
        Assert.Equal(File.ReadAllText(path).ReplaceLineEndings("\n"), actual);
    }
}
