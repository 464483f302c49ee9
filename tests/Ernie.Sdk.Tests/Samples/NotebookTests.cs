using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace Ernie.Sdk.Tests.Samples;

/// <summary>
/// The notebooks are written as file-based apps and generated. <c>ERNIE_APPROVE=1</c> runs them as programs and stores what they print. Running them, as programs and in the kernel of .NET Interactive, takes minutes:
/// where CI=true or ERNIE_FULL=1 says so.
/// </summary>
public sealed partial class NotebookTests(ITestOutputHelper output)
{
    private static readonly TimeSpan s_limit = TimeSpan.FromMinutes(15);
    private static readonly string[] s_codeKeys = ["cell_type", "execution_count", "id", "metadata", "outputs", "source"];
    private static readonly string[] s_textKeys = ["cell_type", "id", "metadata", "source"];
    private static readonly string[] s_withPictures = ["load", "chat", "quantisation", "plas"];

    public static TheoryData<string> Names { get; } = new("load", "chat", "tools", "quantisation", "plas");

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public void EverySource_IsTested() => Assert.Equal(Directory.GetFiles(Notebook.Folder, "*.cs").Select(Path.GetFileNameWithoutExtension).Order(StringComparer.Ordinal), Names.Select(static row => (string?)row.Data).Order(StringComparer.Ordinal));

    [Theory]
    [MemberData(nameof(Names))]
    public async Task File_IsWhatItsSourceGives(string name)
    {
        var notebook = Notebook.Read(name);
        if (Environment.GetEnvironmentVariable("ERNIE_APPROVE") == "1")
        {
            // Outputs of the same code are kept: only delete the file to see what it prints now.
            var isSame = File.Exists(notebook.File) && Code(notebook).SequenceEqual(Stored(notebook).Select(static cell => string.Concat(cell["source"]!.AsArray().Select(static line => $"{line}"))));
            await File.WriteAllTextAsync(notebook.File, notebook.ToJson(isSame ? [.. Stored(notebook).Select(static cell => cell["outputs"]!.AsArray())] : await RunAsync(notebook)), Token);
        }
        Assert.True(File.Exists(notebook.File), $"{notebook.File} is missing. Run this test with ERNIE_APPROVE=1.");
        JsonArray[] outputs = [.. Stored(notebook).Select(static cell => cell["outputs"]!.AsArray())];
        Assert.Equal(Code(notebook).Count(), outputs.Length);
        Assert.Equal(notebook.ToJson(outputs), (await File.ReadAllTextAsync(notebook.File, Token)).ReplaceLineEndings("\n"));
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void File_IsValidAndHoldsOutputs(string name)
    {
        var json = JsonNode.Parse(File.ReadAllText(Notebook.Read(name).File))!.AsObject();
        Assert.Equal((4, 5), ((int)json["nbformat"]!, (int)json["nbformat_minor"]!));
        Assert.Equal(".net-csharp", $"{json["metadata"]!["kernelspec"]!["name"]}");
        var ids = new HashSet<string>();
        var pictures = 0;
        foreach (var cell in json["cells"]!.AsArray().Select(static cell => cell!.AsObject()))
        {
            var isCode = $"{cell["cell_type"]}" == "code";
            if (!isCode) Assert.Equal("markdown", $"{cell["cell_type"]}");
            Assert.Equal(isCode ? s_codeKeys : s_textKeys, cell.Select(static property => property.Key));
            Assert.Matches("^[a-zA-Z0-9-_]{1,64}$", $"{cell["id"]}");
            Assert.True(ids.Add($"{cell["id"]}"), $"Two cells have the id {cell["id"]}.");
            AssertLines(cell["source"]!.AsArray());
            if (!isCode) continue;
            Assert.True((int)cell["execution_count"]! > 0);
            var outputs = cell["outputs"]!.AsArray();
            if (ShowsSomething().IsMatch(string.Concat(cell["source"]!.AsArray().Select(static line => $"{line}")))) Assert.NotEmpty(outputs);
            foreach (var shown in outputs)
            {
                switch ($"{shown!["output_type"]}")
                {
                    case "stream":
                        Assert.Equal("stdout", $"{shown["name"]}");
                        AssertLines(shown["text"]!.AsArray());
                        break;
                    case "display_data":
                        Assert.NotNull(shown["metadata"]);
                        AssertLines(shown["data"]!["text/html"]!.AsArray());
                        pictures += string.Concat(shown["data"]!["text/html"]!.AsArray().Select(static line => $"{line}")).Contains("<svg", StringComparison.Ordinal) ? 1 : 0;
                        break;
                    default:
                        Assert.Fail($"An output of type {shown["output_type"]}.");
                        break;
                }
            }
        }
        if (s_withPictures.Contains(name)) Assert.True(pictures > 0, "No picture.");
    }

    [Theory]
    [MemberData(nameof(Names))]
    public async Task Cells_RunAsAProgram(string name)
    {
        SkipUnlessFull();
        var notebook = Notebook.Read(name);
        AssertSameKinds(notebook, await RunAsync(notebook));
    }

    [Theory]
    [MemberData(nameof(Names))]
    public async Task Source_RunsAsItIs(string name)
    {
        SkipUnlessFull();
        using var data = new TemporaryFolder();
        var result = await ChildProcess.RunAsync("dotnet", ["run", Path.Combine(Notebook.Folder, $"{name}.cs")], SharedData.RepositoryRoot, s_limit, new Dictionary<string, string> { ["XDG_DATA_HOME"] = data.Path });
        Assert.True(result.ExitCode == 0, result.Output + result.Error);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public async Task Cells_RunInTheKernel(string name)
    {
        SkipUnlessFull();
        using var data = new TemporaryFolder();
        await using var kernel = await InteractiveKernel.StartAsync(Notebook.Folder, data.Path, s_limit);
        var notebook = Notebook.Read(name);
        // The library as it was built with the tests.
        foreach (var cell in notebook.SetUp(AppContext.BaseDirectory.Replace('\\', '/'))) await kernel.RunAsync(cell);
        var outputs = new List<JsonArray>();
        foreach (var cell in Code(notebook)) outputs.Add(await kernel.RunAsync(cell));
        foreach (var text in outputs.SelectMany(static cell => cell)) output.WriteLine($"{text!["text"]}");
        AssertSameKinds(notebook, outputs);
    }

    private static IEnumerable<string> Code(Notebook notebook) => notebook.Cells.Where(static cell => !cell.IsMarkdown).Select(static cell => cell.Text);

    /// <summary>The cells of code in the file that have a counterpart in the source: all but the first two, which are the notebook's own.</summary>
    private static IEnumerable<JsonNode> Stored(Notebook notebook) => JsonNode.Parse(File.ReadAllText(notebook.File))!["cells"]!.AsArray().Where(static cell => $"{cell!["cell_type"]}" == "code").Skip(2).Select(static cell => cell!);

    /// <summary>A run shows text and pictures where the stored one did.</summary>
    private static void AssertSameKinds(Notebook notebook, IReadOnlyList<JsonArray> outputs)
    {
        Assert.Equal(Stored(notebook).Select(static cell => Kinds(cell["outputs"]!.AsArray())), outputs.Select(Kinds));

        static string Kinds(JsonArray outputs) => string.Join(' ', outputs.Select(static shown => $"{shown!["output_type"]}").Distinct().Order(StringComparer.Ordinal));
    }

    private static async Task<IReadOnlyList<JsonArray>> RunAsync(Notebook notebook)
    {
        using var folder = new TemporaryFolder();
        var file = folder.File($"{notebook.Name}.cs");
        await File.WriteAllTextAsync(file, notebook.ToProgram(), Token);
        var result = await ChildProcess.RunAsync("dotnet", ["run", file], Notebook.Folder, s_limit, new Dictionary<string, string> { ["XDG_DATA_HOME"] = folder.Path });
        Assert.True(result.ExitCode == 0, result.Output + result.Error);
        return Notebook.Outputs(result.Output);
    }

    private static void AssertLines(JsonArray lines)
    {
        Assert.All(lines.SkipLast(1), static line => Assert.EndsWith("\n", $"{line}", StringComparison.Ordinal));
        Assert.All(lines, static line => Assert.InRange($"{line}".Count(static c => c == '\n'), 0, 1));
    }

    private static void SkipUnlessFull() =>
        Assert.SkipUnless(Environment.GetEnvironmentVariable("CI") == "true" || Environment.GetEnvironmentVariable("ERNIE_FULL") == "1", "Builds and runs a notebook for a minute: set CI=true or ERNIE_FULL=1 to run it.");

    [GeneratedRegex(@"^(Console\.Write|display\()", RegexOptions.Multiline)]
    private static partial Regex ShowsSomething();
}
