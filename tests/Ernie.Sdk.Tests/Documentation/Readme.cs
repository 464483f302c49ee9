using System.Text.RegularExpressions;

namespace Ernie.Sdk.Tests.Documentation;

/// <summary>What the repository's README shows.</summary>
internal static partial class Readme
{
    public static string Text { get; } = File.ReadAllText(Path.Combine(SharedData.RepositoryRoot, "README.md")).ReplaceLineEndings("\n");

    /// <summary>Code blocks of a language, in order.</summary>
    public static string[] Blocks(string language) => [.. Fence().Matches(Text).Where(match => match.Groups[1].Value == language).Select(static match => match.Groups[2].Value)];

    /// <summary>Code within sentences and tables.</summary>
    public static string[] InlineCode() => [.. Inline().Matches(Fence().Replace(Text, "")).Select(static match => match.Groups[1].Value)];

    [GeneratedRegex(@"^```(\w*)\n(.*?)^```", RegexOptions.Multiline | RegexOptions.Singleline)]
    private static partial Regex Fence();

    [GeneratedRegex("`([^`\n]+)`")]
    private static partial Regex Inline();
}
