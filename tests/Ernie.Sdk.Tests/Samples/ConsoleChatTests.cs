namespace Ernie.Sdk.Tests.Samples;

/// <summary>The sample ConsoleChat, as a process of its own.</summary>
public sealed class ConsoleChatTests
{
    private const string Sample = "ConsoleChat";

    [Theory]
    [InlineData("There is no option '--promt'.", "--promt x")]
    [InlineData("--prompt takes a text, and none follows.", "--prompt")]
    [InlineData("--model takes a path, and none follows.", "--prompt hello --model")]
    [InlineData("--device takes cpu, cuda or auto, and not 'gpu'.", "--device gpu")]
    public async Task WrongArguments_AreNamed(string cause, string arguments)
    {
        await DocumentSample.AssertRefusedAsync(Sample, 2, cause, arguments);
        await DocumentSample.AssertRefusedAsync(Sample, 2, "Usage: ConsoleChat [--model PATH] [--prompt TEXT] [--device cpu|cuda|auto]", arguments);
    }

    [Fact]
    public async Task AGpuThatCannotBeUsed_IsNamed() => await DocumentSample.AssertRefusedAsync(Sample, 1, "The model cannot run on a GPU. ONNX Runtime package", "--device cuda");

    [Fact]
    public async Task FromAPipe_LinesAreMessages_AndCommandsAreNot()
    {
        var result = await DocumentSample.RunAsync(Sample, [], "/help\nWhat is the capital of Norway?\n/new\nWhat is the capital of France?\n/exit\nWho are you?\n");
        Assert.True(result.ExitCode == 0, result.Error);
        Assert.Equal("The capital of Norway is Oslo.\nThe capital of France is Paris.\n", result.Output.ReplaceLineEndings("\n"));
        Assert.Contains("/new starts over, /exit ends", result.Error, StringComparison.Ordinal);
    }
}
