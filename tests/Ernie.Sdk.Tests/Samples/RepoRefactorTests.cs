using System.Globalization;
using System.Text.RegularExpressions;
using RepoRefactor;

namespace Ernie.Sdk.Tests.Samples;

/// <summary>The sample RepoRefactor: its diff applies, and functions compute what they did.</summary>
public sealed partial class RepoRefactorTests
{
    private const string Sample = "RepoRefactor";

    [Theory]
    [InlineData(512, 16)]
    [InlineData(2048, 12)]
    public async Task TinyRepository_DiffAppliesAndKeepsWhatFunctionsCompute(int tokens, int least)
    {
        var result = await DocumentSample.SucceedAsync(Sample, "--tokens", $"{tokens}");
        var root = Root().Match(result.Error).Groups[1].Value;
        try
        {
            var before = Functions(root);
            Assert.Equal(18, before.Count);
            await PatchFile.ApplyAsync(root, result.Output);
            Assert.Equal(before, Functions(root));
            var named = Directory.GetFiles(root).Sum(static file => Constant().Count(File.ReadAllText(file)));
            Assert.InRange(named, least, 18);
            Assert.Contains($"{named} of 18 functions were read right", result.Error, StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(root, recursive: true);
        }
    }

    /// <summary>The tiny model cannot read this repository; what it says is applied all the same.</summary>
    [Fact]
    public async Task AnyRepository_DiffApplies()
    {
        using var folder = new TemporaryFolder();
        await PatchFile.GitAsync(folder.Path, "init", "--quiet");
        // In a folder below the work tree's root, with names and line endings of every kind.
        var root = Directory.CreateDirectory(folder.File("part")).FullName;
        foreach (var (name, text) in new[] { ("one.txt", "alpha\nbeta\ngamma\n"), ("two words.txt", "alpha\r\nbeta\r\n"), ("größe.txt", "no line feed"), ("tab\tquote\".txt", "x\n") }) await File.WriteAllTextAsync(Path.Combine(root, name), text, TestContext.Current.CancellationToken);
        await File.WriteAllBytesAsync(Path.Combine(root, "picture.png"), [0x89, 0x50, 0, 1], TestContext.Current.CancellationToken);

        var result = await DocumentSample.SucceedAsync(Sample, "--repo", root, "--tokens", "512", "--task", "Remove the second line.");
        Assert.Contains("4 files, 7 lines", result.Error, StringComparison.Ordinal);
        Assert.Contains(result.Output.Length == 0 ? "No line changes." : "git apply --check: the diff applies.", result.Error, StringComparison.Ordinal);
        await PatchFile.ApplyAsync(root, result.Output);
    }

    [Theory]
    [InlineData(2, "Usage: RepoRefactor ", "--colour red")]
    [InlineData(2, "--tokens takes 512 to 131072; it was '-1'.", "--tokens -1")]
    [InlineData(1, "there is no folder ", "--repo nowhere")]
    [InlineData(1, "nowhere", "--model nowhere")]
    public Task WrongArguments_AreNamed(int exitCode, string cause, string arguments) => DocumentSample.AssertRefusedAsync(Sample, exitCode, cause, arguments);

    [Fact]
    public async Task AFolderWithoutText_IsRefused()
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllBytesAsync(folder.File("picture.png"), [0x89, 0x50, 0, 1], TestContext.Current.CancellationToken);
        await DocumentSample.AssertRefusedAsync(Sample, 1, "has no text file that fits", $"--repo {folder.Path}");
    }

    [Fact]
    public void EditsSchema_TwoNumbersAreARangeInEitherOrder()
    {
        var file = SourceFile.Of("a.txt", "1\n2\n3\n");
        var edit = Assert.Single(EditsSchema.Read(System.Text.Json.Nodes.JsonNode.Parse("""{"edits": [{"file": "a.txt", "first": 3, "last": 2, "replacement": ["x\ny\u0000", "z"]}]}""")!, new Repository("/", file.Text, [file], 0)));
        Assert.Equal((2, 3), (edit.First, edit.Last));
        Assert.Equal(new[] { "x", "y", "z" }, edit.Replacement);
    }

    [Fact]
    public void Repository_LeavesOutWhatDoesNotFit()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(folder.File("a.txt"), "short\n");
        File.WriteAllText(folder.File("b.txt"), new string('x', 1000));
        File.WriteAllText(folder.File("c.txt"), "short too\n");
        var repository = Repository.Read(folder.Path, 100, Repository.Numbered, static text => text.Length);
        Assert.Equal(new[] { "a.txt", "c.txt" }, repository.Files.Select(static file => file.Path));
        Assert.Equal(1, repository.LeftOut);
        Assert.Equal("=== a.txt\n1: short\n\n=== c.txt\n1: short too", repository.Text);
    }

    /// <summary>What each function computes: its operator and the value of its other operand.</summary>
    private static SortedDictionary<string, (string Operator, int Operand)> Functions(string root)
    {
        var functions = new SortedDictionary<string, (string, int)>(StringComparer.Ordinal);
        foreach (var file in Directory.GetFiles(root))
        {
            // As Python reads it, a constant holds from its line on.
            var constants = new Dictionary<string, int>();
            foreach (var line in File.ReadLines(file))
            {
                if (Constant().Match(line) is { Success: true } constant) constants[constant.Groups[1].Value] = int.Parse(constant.Groups[2].Value, CultureInfo.InvariantCulture);
                else if (Function().Match(line) is { Success: true } function)
                    functions.Add(function.Groups[1].Value, (function.Groups[2].Value, constants.TryGetValue(function.Groups[3].Value, out var value) ? value : int.Parse(function.Groups[3].Value, CultureInfo.InvariantCulture)));
                else Assert.StartsWith("#", line, StringComparison.Ordinal);
            }
        }
        return functions;
    }

    [GeneratedRegex("git -C \"([^\"]+)\" apply")]
    private static partial Regex Root();

    [GeneratedRegex(@"^([A-Z0-9_]+) = (\d+)\r?$", RegexOptions.Multiline)]
    private static partial Regex Constant();

    [GeneratedRegex(@"^def (\w+)\(x\): return x (\S+) (\w+)$")]
    private static partial Regex Function();
}
