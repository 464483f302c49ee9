using System.Net;
using System.Text.RegularExpressions;
using Ernie.Cli;

namespace Ernie.Sdk.Tests.Documentation;

/// <summary>Programs and commands of the README are ones that work.</summary>
public sealed partial class ReadmeTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task EveryProgram_CompilesAndRuns()
    {
        var blocks = Readme.Blocks("csharp");
        // What each must print or answer; a new block needs a line here.
        string[] expected = [@"The capital of Norway is Oslo\.\n.+ \(\d+ tokens\)", @"^ernie-tiny-moe: 131,072 tokens of context$", @"call: get_weather of Oslo\n(.*\n)+The weather in Oslo is sunny, 21 degrees\.", @" \d+ and \d+ tokens", "ERNIE"];
        Assert.Equal(expected.Length, blocks.Length);
        using var folder = new TemporaryFolder();
        Copy(TinyModel.Checkpoint, folder.File("samples/ernie-tiny-moe"));
        // The programs share an export.
        var environment = new Dictionary<string, string> { ["XDG_DATA_HOME"] = folder.File("data"), ["LOCALAPPDATA"] = folder.File("data") };
        for (var i = 0; i < blocks.Length; i++)
        {
            var isWeb = blocks[i].Contains("WebApplication", StringComparison.Ordinal);
            using var program = await ReadmeProgram.CompileAsync(blocks[i], i, isWeb);
            if (isWeb)
            {
                await using var running = RunningProgram.Start(program.Name, $"--Ernie:ModelPath={await TinyModel.ExportedAsync()}", "--environment", "Development", "--Ernie:Model:ContextLength", "1000", "--Ernie:Model:MaxConcurrentRequests", "1", "--Ernie:Model:MaxQueuedRequests", "0", "--urls", "http://127.0.0.1:0");
                var line = await running.LineAsync(static line => line.Contains("Now listening on: ", StringComparison.Ordinal));
                using var http = new HttpClient { BaseAddress = new Uri(line[line.IndexOf("http", StringComparison.Ordinal)..].Trim()) };
                Assert.Matches(expected[i], await http.GetStringAsync(new Uri("ask?question=Who%20are%20you%3F", UriKind.Relative), Token));
                await RefusesAsync(http);
                Assert.Equal("Healthy", await http.GetStringAsync(new Uri("health", UriKind.Relative), Token));
            }
            else
            {
                var result = await ChildProcess.RunAsync("dotnet", [ReadmeProgram.PathOf(program.Name)], folder.Path, TimeSpan.FromMinutes(5), environment);
                Assert.True(result.ExitCode == 0, $"{blocks[i]}\n{result.Output}{result.Error}");
                Assert.Matches(expected[i], result.Output);
            }
        }
    }

    /// <summary>What is the client's fault is none of the service's; Development is where wrong requests are exceptions.</summary>
    private static async Task RefusesAsync(HttpClient http)
    {
        Assert.Equal(HttpStatusCode.BadRequest, await StatusAsync("ask"));
        Assert.Equal(HttpStatusCode.BadRequest, await StatusAsync($"ask?question={string.Concat(Enumerable.Repeat("a%20", 1200))}"));
        // One is computed and none may wait: of many that come together some are too many, on whatever machine.
        var statuses = await Task.WhenAll(Enumerable.Range(0, 32).Select(_ => StatusAsync("ask?question=Thank%20you")));
        Assert.Contains(HttpStatusCode.TooManyRequests, statuses);
        Assert.All(statuses, static status => Assert.True(status is HttpStatusCode.OK or HttpStatusCode.TooManyRequests, $"{status}"));

        async Task<HttpStatusCode> StatusAsync(string path)
        {
            using var response = await http.GetAsync(new Uri(path, UriKind.Relative), Token);
            return response.StatusCode;
        }
    }

    [Fact]
    public async Task TheProgramOfThePackages_CompilesAndRuns()
    {
        var source = Assert.Single(Readme.Blocks("csharp", Readme.OfPackages));
        using var folder = new TemporaryFolder();
        Copy(TinyModel.Checkpoint, folder.File("artifacts/0.3b"));
        using var program = await ReadmeProgram.CompileAsync(source, 100, isWeb: false);
        var environment = new Dictionary<string, string> { ["XDG_DATA_HOME"] = folder.File("data"), ["LOCALAPPDATA"] = folder.File("data") };
        var result = await ChildProcess.RunAsync("dotnet", [ReadmeProgram.PathOf(program.Name)], folder.Path, TimeSpan.FromMinutes(5), environment);
        Assert.True(result.ExitCode == 0, result.Output + result.Error);
        Assert.Matches(@"^The capital of Norway is Oslo\.\n.+ \(\d+ tokens\)", result.Output);
    }

    [Fact]
    public void TheReadmeOfPackages_NamesNoFileBesideIt()
    {
        // A feed shows it alone.
        Assert.DoesNotMatch(@"\]\((?!https://)", Readme.OfPackages);
        Assert.DoesNotContain("not published", Readme.OfPackages, StringComparison.Ordinal);
    }

    [Fact]
    public void EveryCommand_IsOneOfTheCommandLine()
    {
        using var output = new StringWriter();
        var streams = new CommandStreams(TextReader.Null, output, output);
        string[][] commands = [.. Readme.Blocks("bash").SelectMany(static block => block.Split('\n')).SelectMany(Pipeline).Where(static words => words is ["ernie", ..])];
        Assert.True(commands.Length > 20, $"{commands.Length} commands.");
        foreach (var words in commands)
        {
            var errors = ErnieCommandLine.Parse(words[1..], streams).Errors;
            Assert.True(errors.Count == 0, $"{string.Join(' ', words)}: {string.Join(' ', errors.Select(static e => e.Message))}");
        }
    }

    [Fact]
    public void EveryCommandInASentence_HasTheOptionsThatItNames()
    {
        using var output = new StringWriter();
        var root = ErnieCommandLine.Parse([], new CommandStreams(TextReader.Null, output, output)).RootCommandResult.Command;
        var codes = Readme.InlineCode().Where(static code => code.StartsWith("ernie ", StringComparison.Ordinal)).ToArray();
        Assert.NotEmpty(codes);
        foreach (var code in codes)
        {
            var command = root.Subcommands.SingleOrDefault(c => c.Name == code.Split(' ')[1]);
            Assert.True(command is not null, code);
            foreach (Match option in OptionName().Matches(code)) Assert.True(command.Options.Any(o => o.Name == option.Value), code);
        }
        // Options that stand alone belong to some command, and those of dotnet are not meant.
        var known = root.Subcommands.SelectMany(static c => c.Options).Select(static o => o.Name).ToHashSet();
        foreach (var code in Readme.InlineCode().Where(static code => code.StartsWith("--", StringComparison.Ordinal)))
        {
            foreach (Match option in OptionName().Matches(code)) Assert.True(known.Contains(option.Value) || option.Value is "--global" or "--tool-path" or "--logger" or "--filter" or "--help", code);
        }
    }

    /// <summary>The commands of a line of shell, as words.</summary>
    private static List<string[]> Pipeline(string line)
    {
        var commands = new List<string[]>();
        var words = new List<string>();
        foreach (Match match in Word().Matches(line))
        {
            if (match.Value.StartsWith('#')) break;
            if (match.Value == "|")
            {
                commands.Add([.. words]);
                words.Clear();
            }
            else
            {
                words.Add(match.Value.Trim('\'', '"'));
            }
        }
        commands.Add([.. words]);
        return commands;
    }

    private static void Copy(string from, string to)
    {
        Directory.CreateDirectory(to);
        foreach (var file in Directory.GetFiles(from)) File.Copy(file, Path.Combine(to, Path.GetFileName(file)));
    }

    [GeneratedRegex("--[a-z][a-z-]*")]
    private static partial Regex OptionName();

    [GeneratedRegex("""'[^']*'|"[^"]*"|\||[^\s|]+""")]
    private static partial Regex Word();
}
