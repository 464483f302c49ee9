using System.Text.RegularExpressions;

namespace Ernie.Sdk.Tests.Documentation;

/// <summary>What the repository's README shows.</summary>
internal static partial class Readme
{
    public static string Text { get; } = Read("README.md");

    /// <summary>What the packages show in its place.</summary>
    public static string OfPackages { get; } = Read("src/PACKAGE.md");

    /// <summary>Code blocks of a language, in order.</summary>
    public static string[] Blocks(string language) => Blocks(language, Text);

    public static string[] Blocks(string language, string text) => [.. Fence().Matches(text).Where(match => match.Groups[1].Value == language).Select(static match => match.Groups[2].Value)];

    /// <summary>Code within sentences and tables.</summary>
    public static string[] InlineCode() => [.. Inline().Matches(Fence().Replace(Text, "")).Select(static match => match.Groups[1].Value)];

    private static string Read(string file) => File.ReadAllText(Path.Combine(SharedData.RepositoryRoot, file)).ReplaceLineEndings("\n");

    [GeneratedRegex(@"^```(\w*)\n(.*?)^```", RegexOptions.Multiline | RegexOptions.Singleline)]
    private static partial Regex Fence();

    [GeneratedRegex("`([^`\n]+)`")]
    private static partial Regex Inline();
}
