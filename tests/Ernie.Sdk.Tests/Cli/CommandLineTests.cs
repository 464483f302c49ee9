using System.Diagnostics;
using System.Text.Json;
using Ernie.Cli;
using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>Help, errors, exit codes, and the tokenizer's command.</summary>
public sealed class CommandLineTests
{
    [Fact]
    public async Task Help_DocumentsExitCodes()
    {
        var help = (await CommandRun.Async("--help")).Succeeded();
        Assert.Contains("130 cancelled", help.Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task WithoutArguments_TheHelpIsPrinted() => Assert.Equal((await CommandRun.Async("--help")).Succeeded(), await CommandRun.Async());

    [Fact]
    public async Task HelpOfChatServeAndBench_BeginsWithWhatTheCommandIsFor()
    {
        foreach (var (command, first) in new[] { ("chat", "--system"), ("serve", "--urls"), ("bench", "--runs") })
        {
            var help = (await CommandRun.Async(command, "--help")).Succeeded().Out;
            Assert.StartsWith(first, help[(help.IndexOf("Options:", StringComparison.Ordinal) + "Options:".Length)..].TrimStart(), StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task AnEmptyArgument_IsNamed()
    {
        var run = await CommandRun.Async("export", ExportedTinyModel.Checkpoint, "");
        Assert.Equal(ExitCode.Usage, run.ExitCode);
        Assert.StartsWith("ernie: OUT is empty.\n", run.Error, StringComparison.Ordinal);
        Assert.StartsWith("ernie: FOLDER is empty.\n", (await CommandRun.Async("inspect", "")).Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task AClosedStandardOutput_IsOneLine()
    {
        Assert.SkipUnless(File.Exists("/bin/sh"), "There is no /bin/sh.");
        var run = await ChildProcess.RunAsync("/bin/sh", ["-c", "exec dotnet exec \"$0\" inspect \"$1\" >&-", ChildProcess.Cli, ExportedTinyModel.Checkpoint]);
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.StartsWith("ernie: ", run.Error, StringComparison.Ordinal);
        Assert.Equal(1, run.Error.Count(static c => c == '\n'));
    }

    [Fact]
    public async Task AClosedStandardInput_IsAtItsEnd()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Only Linux tells which files a process inherited.");
        var run = await ChildProcess.RunAsync("/bin/sh", ["-c", "exec dotnet exec \"$0\" chat \"$1\" <&-", ChildProcess.Cli, await TinyModel.ExportedAsync()]);
        Assert.True(run.ExitCode == ExitCode.Success, run.Error);
        Assert.Equal("", run.Output);
    }

    [Fact]
    public void TheLog_HasTheExceptionOfAnError_AndThatOfAWarningForDebugging()
    {
        var failure = new InvalidOperationException("the reason");
        Assert.Contains("the reason", Logged(LogLevel.Error, LogLevel.Warning), StringComparison.Ordinal);
        Assert.DoesNotContain("the reason", Logged(LogLevel.Warning, LogLevel.Warning), StringComparison.Ordinal);
        Assert.Contains("the reason", Logged(LogLevel.Warning, LogLevel.Debug), StringComparison.Ordinal);

        string Logged(LogLevel level, LogLevel least)
        {
            using var text = new StringWriter();
            using var logger = new StandardErrorLogger(text, least);
            logger.Log(level, failure, "A request failed.");
            return text.ToString();
        }
    }

    [Fact]
    public async Task FolderThatIsNotThere_IsSaidToBeMissing() => Assert.Contains("There is no folder nope", (await CommandRun.Async("verify", "nope")).Error, StringComparison.Ordinal);

    [Fact]
    public async Task ADeviceThatCannotBeUsed_IsToldWithoutACureForProjects()
    {
        var run = await CommandRun.Async("generate", ExportedTinyModel.Checkpoint, "--max-tokens", "1", "--device", "cuda");
        Assert.SkipWhen(run.ExitCode == 0, "There is a GPU, and it computes.");
        Assert.StartsWith("ernie: The model cannot run on a GPU.", run.Error, StringComparison.Ordinal);
        foreach (var text in new[] { run.Error, (await CommandRun.Async("doctor")).Out }) Assert.DoesNotContain("in the application", text, StringComparison.Ordinal);
        Assert.SkipUnless(run.Error.Contains("ONNX Runtime package", StringComparison.Ordinal), "The GPU flavour of ONNX Runtime is here.");
        Assert.Contains("leave --device out", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task TheProcess_ReturnsTheDocumentedExitCodes()
    {
        const string Documented = "0 success, 1 bad input or a damaged file (one line on standard error says what and where), 2 wrong usage, 130 cancelled";
        Assert.Contains(Documented, await File.ReadAllTextAsync(Path.Combine(SharedData.RepositoryRoot, "README.md"), TestContext.Current.CancellationToken), StringComparison.Ordinal);
        using var folder = new TemporaryFolder();
        foreach (var (code, arguments) in new[] { (0, new[] { "--help" }), (1, ["verify", folder.Path]), (2, ["verify"]) })
        {
            var result = await ChildProcess.RunAsync("dotnet", ["exec", ChildProcess.Cli, .. arguments]);
            Assert.Equal((code, code == 1 ? 1 : result.Error.Count(static c => c == '\n')), (result.ExitCode, result.Error.Count(static c => c == '\n')));
            Assert.Equal(code == 0, result.Output.Length > 0);
            Assert.Equal(code != 0, result.Error.Length > 0);
        }

        Assert.SkipWhen(OperatingSystem.IsWindows(), "There is no signal to send.");
        ChildProcess.SkipWhereInterruptsAreIgnored();
        using var process = Process.Start(new ProcessStartInfo("dotnet", ["exec", ChildProcess.Cli, "generate", await TinyModel.ExportedAsync(), "--max-tokens", "1"]) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true })!;
        // It has answered, and waits for more.
        await process.StandardInput.WriteLineAsync("{\"ids\": [5]}");
        await process.StandardInput.FlushAsync(TestContext.Current.CancellationToken);
        Assert.NotNull(await process.StandardOutput.ReadLineAsync(TestContext.Current.CancellationToken));
        using var kill = ChildProcess.Start("kill", "-INT", $"{process.Id}");
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.Equal((130, "ernie: cancelled"), (process.ExitCode, (await process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken)).Trim()));
    }

    [Fact]
    public async Task Help_OfEveryCommand_HasAnExample()
    {
        var root = (await CommandRun.Async("--help")).Succeeded().Out;
        var commands = root[root.IndexOf("Commands:", StringComparison.Ordinal)..root.IndexOf("Exit codes:", StringComparison.Ordinal)].Split('\n')
            .Where(static line => line.StartsWith("  ", StringComparison.Ordinal) && char.IsAsciiLetter(line[2])).Select(static line => line.Trim().Split(' ')[0]).ToArray();
        Assert.Superset(new HashSet<string>(["bench", "chat", "doctor", "export", "generate", "inspect", "logits", "perplexity", "pull", "synth", "tokenize", "verify"]), commands.ToHashSet());
        foreach (var command in commands)
        {
            var help = (await CommandRun.Async(command, "--help")).Succeeded();
            Assert.Contains($"ernie {command} ", help.Out[help.Out.IndexOf("Examples:", StringComparison.Ordinal)..] + " ", StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("nonsense")]
    [InlineData("generate")]
    [InlineData("generate x --max-tokens 0")]
    [InlineData("generate x --max-tokens many")]
    [InlineData("generate x --max-tokens 1 --kv int4")]
    [InlineData("generate x --max-tokens 1 --kernels none")]
    [InlineData("generate x --max-tokens 1 --threads 0")]
    [InlineData("export x")]
    [InlineData("serve")]
    [InlineData("serve x --urls 127.0.0.1:80")]
    [InlineData("serve x --urls https://127.0.0.1:80")]
    [InlineData("export x y --experts int3")]
    [InlineData("synth --out x --shape 7b")]
    [InlineData("synth --out x --shape 21b --layers 29")]
    [InlineData("chat x --temperature -1")]
    [InlineData("chat x --max-tokens 0")]
    [InlineData("chat x --cuda-graphs")]
    [InlineData("bench x --gpu-memory 3GB")]
    [InlineData("chat x --gpu-count 2")]
    [InlineData("serve x --device cuda --gpu-count 0")]
    [InlineData("pull")]
    [InlineData("pull a/b --from github")]
    [InlineData("pull a/b --parallel 0")]
    [InlineData("doctor x")]
    public async Task WrongUsage_ReturnsTwo(string commandLine)
    {
        var run = await CommandRun.Async(commandLine.Split(' ', StringSplitOptions.RemoveEmptyEntries));
        Assert.Equal(ExitCode.Usage, run.ExitCode);
        Assert.Contains("--help'", run.Error, StringComparison.Ordinal);
        Assert.Empty(run.Out);
    }

    [Fact]
    public async Task WrongUsage_NamesTheWholeCommand_AndOneMistake()
    {
        Assert.EndsWith("\nRun 'ernie cache clear --help'.\n", (await CommandRun.Async("cache", "clear", "--older-than", "-3")).Error, StringComparison.Ordinal);
        var lines = (await CommandRun.Async("frobnicate")).Error.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(2, lines.Length);
        Assert.Contains("frobnicate", lines[0], StringComparison.Ordinal);
        Assert.Equal("Run 'ernie --help'.", lines[1]);
    }

    [Fact]
    public async Task AFilterWhoseReaderHasEnough_EndsQuietly()
    {
        Assert.SkipUnless(File.Exists("/bin/sh"), "There is no /bin/sh.");
        using var folder = new TemporaryFolder();
        await File.WriteAllLinesAsync(folder.File("many.jsonl"), Enumerable.Repeat("{\"text\": \"Who are you?\"}", 50_000), TestContext.Current.CancellationToken);
        var run = await ChildProcess.RunAsync("/bin/sh", ["-c", "{ dotnet exec \"$0\" tokenize \"$1\" \"$2\"; echo \"code $?\" >&2; } | head -n 1", ChildProcess.Cli, ExportedTinyModel.Checkpoint, folder.File("many.jsonl")]);
        Assert.Equal("code 0\n", run.Error);
        Assert.Single(run.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries));
    }

    [Fact]
    public async Task WhatTheLibraryRefuses_IsSaidInTheCommandsWords()
    {
        var run = await CommandRun.Async("serve", await TinyModel.ExportedAsync(), "--context", "999999999");
        Assert.StartsWith("ernie: --context may be at most ", run.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("ErnieModelOptions", run.Error, StringComparison.Ordinal);
        using var folder = new TemporaryFolder();
        await File.WriteAllTextAsync(folder.File("taken"), "x", TestContext.Current.CancellationToken);
        run = await CommandRun.Async("", ["logits", await TinyModel.ExportedAsync(), "--out", folder.File("taken")]);
        Assert.Contains($"the folder {folder.File("taken")} cannot be created: a file has that name", run.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("config.json")]
    [InlineData("model.safetensors")]
    public async Task ADamagedFileOfACheckpoint_IsNamedWithItsFolder_BeforeAnyExport(string file)
    {
        using var folder = new TemporaryFolder();
        new TinyCheckpoint { Experts = 4 }.Write(folder.File("checkpoint"));
        var path = Path.Combine(folder.File("checkpoint"), file);
        Assert.True(File.Exists(path));
        await File.WriteAllTextAsync(path, "{", TestContext.Current.CancellationToken);
        foreach (var command in new[] { new[] { "inspect", folder.File("checkpoint") }, ["export", folder.File("checkpoint"), folder.File("out")], ["chat", folder.File("checkpoint"), "--cache", folder.File("cache")] })
            Assert.StartsWith($"ernie: {path}: ", (await CommandRun.Async(command)).Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("verify", "ernie.json")]
    [InlineData("inspect", "config.json")]
    [InlineData("perplexity", "config.json")]
    [InlineData("tokenize", "tokenizer")]
    public async Task FolderWithoutModel_ReturnsOne(string command, string expected)
    {
        using var folder = new TemporaryFolder();
        var run = await CommandRun.Async(command, folder.Path);
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains(expected, run.Error, StringComparison.Ordinal);
        Assert.Equal(1, run.Error.Count(static c => c == '\n'));
    }

    [Theory]
    [InlineData("generate", "{\"ids\":[5]}\n\n{\"ids\":[99999]}", "line 3: Token 0", 1)]
    [InlineData("generate", "{\"ids\":[5]}\n{\"ids\":[5", "line 2: this is no JSON", 1)]
    [InlineData("generate", "{\"ids\":[]}", "line 1: The prompt is empty", 0)]
    [InlineData("generate", "{\"ids\":[1.5]}", "line 1: \"ids\" must be", 0)]
    [InlineData("generate", "{\"text\":\"a\"}", "line 1: expected an object with the key \"ids\"", 0)]
    [InlineData("perplexity", "{\"ids\":[5,6]}\n{\"ids\":[5]}", "line 2: there is nothing to score", 1)]
    [InlineData("logits", "{\"ids\":[5]}\n{\"ids\":[-1]}", "line 2: Token 0", 1)]
    public async Task DamagedLine_IsNamed_AfterTheResultsBeforeIt(string command, string input, string expected, int results)
    {
        using var folder = new TemporaryFolder();
        new TinyCheckpoint { Experts = 4 }.Write(folder.File("checkpoint"));
        string[] options = command switch { "generate" => ["--max-tokens", "2"], "logits" => ["--out", folder.File("out")], _ => [] };
        var run = await CommandRun.Async(input, [command, folder.File("checkpoint"), "--cache", folder.File("cache"), .. options]);
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains(expected, run.Error, StringComparison.Ordinal);
        Assert.Equal(results, run.Lines.Length);
        foreach (var line in run.Lines) JsonDocument.Parse(line).Dispose();
        if (command == "logits") Assert.Equal([folder.File("out/0.npy")], Directory.GetFiles(folder.File("out")));
    }

    [Fact]
    public async Task Tokenize_ThenDecode_GivesTheText()
    {
        string[] texts = ["Who are you?", "  两个  空格\n\tand a tab", "12 345 <mask:0> 😀", ""];
        var input = string.Join('\n', texts.Select(static text => JsonSerializer.Serialize(new { text })));
        var ids = (await CommandRun.Async(input, ["tokenize", ExportedTinyModel.Checkpoint])).Succeeded();
        var back = (await CommandRun.Async(ids.Out, ["tokenize", ExportedTinyModel.Checkpoint, "--decode"])).Succeeded();
        Assert.Equal(texts, back.Lines.Select(static line => JsonDocument.Parse(line).RootElement.GetProperty("text").GetString()));
    }

    [Fact]
    public async Task Tokenize_TakesSpecialTokensOnlyWhenTold()
    {
        const string Input = """{"text":"a</s>"}""";
        var literal = (await CommandRun.Async(Input, ["tokenize", ExportedTinyModel.Checkpoint])).Succeeded();
        var special = (await CommandRun.Async(Input, ["tokenize", ExportedTinyModel.Checkpoint, "--special"])).Succeeded();
        Assert.DoesNotContain(",2]", literal.Out, StringComparison.Ordinal);
        Assert.EndsWith(",2]}\n", special.Out, StringComparison.Ordinal);
    }
}
