using System.Diagnostics;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using Ernie.Cli;
using Ernie.Cli.Chatting;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>Conversations by pipe and at a terminal, on the tiny model.</summary>
public sealed partial class ChatCommandTests(ExportedTinyModel tiny) : IClassFixture<ExportedTinyModel>, IDisposable
{
    private const string Norway = "What is the capital of Norway?";
    private const string Oslo = "The capital of Norway is Oslo.";
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private Task<CommandRun> ChatAsync(string input, params string[] options) => CommandRun.Async(input, ["chat", tiny.Model, "--temperature", "0", .. options]);

    [Fact]
    public async Task PipedLines_AreAnswered_AnswersAloneOnStandardOutput()
    {
        var run = (await ChatAsync($"{Norway}\n\nWhat is the capital of France?\n")).Succeeded();
        Assert.Equal([Oslo, "The capital of France is Paris."], run.Lines);
        var about = run.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(2, about.Length);
        Assert.All(about, static line => Assert.Matches(@"^\[\d+ tokens after \d+ of prompt \(\d+ cached\), first in \d+\.\d\d s, then \d+\.\d tokens/s\]$", line));
        Assert.DoesNotContain('\e', run.Out + run.Error);
    }

    [Theory]
    [InlineData("/clear")]
    [InlineData("/new")]
    public async Task History_GrowsThePrompt_AndIsForgottenWhenAsked(string command)
    {
        var run = (await ChatAsync($"{Norway}\n{Norway}\n{command}\n{Norway}\n/exit\nnever asked\n")).Succeeded();
        var prompts = PromptTokens().Matches(run.Error).Select(static m => int.Parse(m.Groups[1].Value, System.Globalization.CultureInfo.InvariantCulture)).ToArray();
        Assert.Equal(3, prompts.Length);
        Assert.True(prompts[1] > prompts[0]);
        Assert.Equal(prompts[0], prompts[2]);
    }

    [Fact]
    public async Task Backslash_MakesOneMessageOfLines_AndDoubleSlashOneThatBeginsWithASlash()
    {
        (await ChatAsync($"one\\\ntwo\\\nthree\n//etc\n/save {_folder.File("saved.json")}\n")).Succeeded();
        Assert.Equal([("user", "one\ntwo\nthree"), ("user", "/etc")], Saved("saved.json").Where(static m => m.Role == "user"));
    }

    [Fact]
    public async Task SaveAndLoad_GoOnWithTheSameConversation()
    {
        (await ChatAsync($"{Norway}\n/save {_folder.File("a.json")}\n", "--system", "Be brief.")).Succeeded();
        Assert.Equal([("system", "Be brief."), ("user", Norway), ("assistant", Oslo)], Saved("a.json"));
        var loaded = (await ChatAsync($"/load {_folder.File("a.json")}\n/system\n/save {_folder.File("b.json")}\nWho are you?\n")).Succeeded();
        Assert.Equal(Saved("a.json"), Saved("b.json"));
        Assert.Contains("System prompt: Be brief.", loaded.Error, StringComparison.Ordinal);
        Assert.DoesNotContain(Directory.GetFiles(_folder.Path), static file => file.EndsWith(".new", StringComparison.Ordinal));
    }

    [Fact]
    public async Task ASaveOnAFullDisk_NamesTheFileAndLeavesNothing()
    {
        Assert.SkipUnless(File.Exists("/dev/full"), "There is no /dev/full.");
        File.CreateSymbolicLink(_folder.File("c.json.new"), "/dev/full");
        var run = await ChatAsync($"/save {_folder.File("c.json")}\n");
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.StartsWith($"ernie: {_folder.File("c.json")} cannot be written: No space left", run.Error, StringComparison.Ordinal);
        Assert.DoesNotContain(".new", run.Error, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFileSystemEntries(_folder.Path));
    }

    [Fact]
    public async Task File_GoesBeforeTheNextMessage_Once()
    {
        await File.WriteAllTextAsync(_folder.File("facts.txt"), "The clerk keeps the seal.\n", TestContext.Current.CancellationToken);
        var run = (await ChatAsync($"/file {_folder.File("facts.txt")}\n{Norway}\n{Norway}\n/save {_folder.File("saved.json")}\n")).Succeeded();
        Assert.Matches(@"facts\.txt: \d+ tokens go before", run.Error);
        Assert.Equal(["facts.txt:\nThe clerk keeps the seal.\n\n" + Norway, Norway], Saved("saved.json").Where(static m => m.Role == "user").Select(static m => m.Text));
    }

    [Theory]
    [InlineData("/nonsense", "/nonsense")]
    [InlineData("/file /does/not/exist", "/does/not/exist")]
    [InlineData("/save", "wants a path")]
    [InlineData("/save /does/not/exist/c.json", "/does/not/exist/c.json cannot be written: there is no folder /does/not/exist.")]
    [InlineData("/load {0}", "no saved conversation")]
    [InlineData("/file {0}", "UTF-8")]
    public async Task CommandThatFails_EndsAPipe_WithItsReason(string command, string expected)
    {
        await File.WriteAllBytesAsync(_folder.File("damaged"), [0xFF, 0xFE, 0x00], TestContext.Current.CancellationToken);
        var run = await ChatAsync(string.Format(System.Globalization.CultureInfo.InvariantCulture, command, _folder.File("damaged")) + $"\n{Norway}\n");
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains(expected, run.Error, StringComparison.Ordinal);
        Assert.Empty(run.Out);
    }

    [Fact]
    public async Task LimitOfTokens_CutsOff_AndIsTold()
    {
        var run = (await ChatAsync(Norway + "\n", "--max-tokens", "3")).Succeeded();
        Assert.Contains("[3 tokens", run.Error, StringComparison.Ordinal);
        Assert.Contains("cut off", run.Error, StringComparison.Ordinal);
        Assert.StartsWith(run.Lines[0], Oslo, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ConversationLongerThanTheContext_IsRefused()
    {
        var run = await ChatAsync(string.Join(' ', Enumerable.Repeat("seal", 300)) + "\n", "--context", "128", "--kv", "int8");
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("128", run.Error, StringComparison.Ordinal);
        // In words of the command line.
        Assert.Contains("--context", run.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("ErnieModelOptions", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Template_BringsReasoning()
    {
        var run = (await ChatAsync($"{Norway}\n", "--template", "thinking")).Succeeded();
        Assert.Equal($"{Oslo}\n", run.Out);
        Assert.StartsWith("[reasoning]\n", run.Error, StringComparison.Ordinal);
        Assert.Matches(@"\n\[\d+ tokens \(\d+ of reasoning\)", run.Error);
    }

    [Fact]
    public async Task Interruption_StopsTheAnswer_NotTheProgram()
    {
        using var output = new Tapped();
        using var error = new StringWriter { NewLine = "\n" };
        var streams = new CommandStreams(new StringReader($"{Norway}\n{Norway}\n"), output, error);
        var isFirst = true;
        output.Written = () =>
        {
            if (isFirst) Assert.True(streams.Interruption.Deliver());
            isFirst = false;
        };
        Assert.Equal(ExitCode.Success, await ErnieCommandLine.RunAsync(["chat", tiny.Model, "--temperature", "0"], streams, TestContext.Current.CancellationToken));
        Assert.Equal("[stopped]", error.ToString().Split('\n')[0]);
        Assert.EndsWith(Oslo + "\n", output.ToString(), StringComparison.Ordinal);
        Assert.False(streams.Interruption.Deliver());
    }

    [Theory]
    [InlineData(true, true, "\e[2mhm\e[0m\nyes\n", "about\n")]
    [InlineData(true, false, "[reasoning]\nhm\n[answer]\nyes\n", "about\n")]
    [InlineData(false, false, "yes\n", "[reasoning]\nhm\nabout\n")]
    public void Reasoning_IsDimmed_OrBetweenMarks_OrNotInAPipe(bool terminal, bool colours, string expected, string aside)
    {
        using var output = new StringWriter { NewLine = "\n" };
        using var error = new StringWriter { NewLine = "\n" };
        var screen = new ChatScreen(new CommandStreams(TextReader.Null, output, error) { OutIsTerminal = terminal }, colours);
        screen.Reasoning("h");
        screen.Reasoning("m");
        screen.Answer("\n");
        screen.Answer("yes");
        screen.End("about");
        Assert.Equal(expected, output.ToString());
        Assert.Equal(aside, error.ToString());
    }

    [Fact]
    public void WhatAModelWrites_CannotControlTheTerminal() => Assert.Equal("a\uFFFD[2Jb\n\tc\uFFFD", ChatScreen.Plain("a\e[2Jb\n\tc\u009b"));

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task AtATerminal_PastedLinesAreOneMessage_AndInterruptAtThePromptEnds(bool noColour)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() && File.Exists("/usr/bin/script"), "A pseudo-terminal needs the program 'script'.");
        ChildProcess.SkipWhereInterruptsAreIgnored();
        var start = new ProcessStartInfo("/usr/bin/script", ["-qefc", $"dotnet {ChildProcess.Cli} chat {tiny.Model} --temperature 0", "/dev/null"]) { RedirectStandardInput = true, RedirectStandardOutput = true };
        start.Environment["TERM"] = "xterm";
        start.Environment.Remove("NO_COLOR");
        if (noColour) start.Environment["NO_COLOR"] = "1";
        using var process = Process.Start(start)!;
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        limit.CancelAfter(TimeSpan.FromMinutes(2));
        var screen = new StringBuilder();
        var seen = 0;
        try
        {
            await UntilAsync("> ");
            // Ctrl+U clears the line.
            await TypeAsync("What is nothing\u0015" + Norway + "\n");
            await UntilAsync("tokens/s");
            await UntilAsync("> ");
            // The arrow brings the question back, and what is typed changes it.
            await TypeAsync("\e[A\u007f!\n");
            await UntilAsync("tokens/s");
            await UntilAsync("> ");
            await TypeAsync("first line\nsecond line\n");
            await UntilAsync("tokens/s");
            await UntilAsync("> ");
            await TypeAsync("/nonsense\n");
            await UntilAsync("There is no command /nonsense");
            await TypeAsync($"/save {_folder.File("saved.json")}\n");
            await UntilAsync("6 messages");
            await UntilAsync("> ");
            await TypeAsync("\u0003");
            await process.WaitForExitAsync(limit.Token);
        }
        finally
        {
            if (!process.HasExited) process.Kill(entireProcessTree: true);
        }
        Assert.Equal(ExitCode.Cancelled, process.ExitCode);
        Assert.Equal([Norway, Norway[..^1] + "!", "first line\nsecond line"], Saved("saved.json").Where(static m => m.Role == "user").Select(static m => m.Text));
        Assert.Equal(!noColour, screen.ToString().Contains("\e[2m[", StringComparison.Ordinal));

        async Task TypeAsync(string text)
        {
            await process.StandardInput.WriteAsync(text);
            await process.StandardInput.FlushAsync(limit.Token);
        }

        async Task UntilAsync(string text)
        {
            var buffer = new char[1024];
            // What came with the text before may hold this one already.
            while (!screen.ToString(seen, screen.Length - seen).Contains(text, StringComparison.Ordinal))
            {
                var count = await process.StandardOutput.ReadAsync(buffer, limit.Token);
                Assert.True(count > 0, $"The program ended before it wrote '{text}': {screen}");
                screen.Append(buffer, 0, count);
            }
            seen = screen.ToString().IndexOf(text, seen, StringComparison.Ordinal) + text.Length;
        }
    }

    private IEnumerable<(string Role, string Text)> Saved(string file)
    {
        using var document = JsonDocument.Parse(File.ReadAllText(_folder.File(file)));
        return [.. document.RootElement.EnumerateArray().Select(static m => (m.GetProperty("role").GetString()!, m.GetProperty("contents")[0].GetProperty("text").GetString()!))];
    }

    [GeneratedRegex(@"after (\d+) of prompt")]
    private static partial Regex PromptTokens();

    private sealed class Tapped : StringWriter
    {
        public Action Written { get; set; } = static () => { };

        public override void Write(string? value)
        {
            base.Write(value);
            Written();
        }
    }
}
