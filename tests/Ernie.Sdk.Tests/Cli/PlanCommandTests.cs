using System.Text.Json;
using Ernie.Cli;

namespace Ernie.Sdk.Tests.Cli;

public sealed class PlanCommandTests
{
    [Fact]
    public async Task Shape_IsPlannedOnGpus()
    {
        var run = (await CommandRun.Async("plan", "--shape", "300b", "--experts", "int4", "--gpu", "80GB", "--gpu-count", "4")).Succeeded();
        // 39 GB of weights for each, give or take half a layer.
        Assert.Matches(@"\n0 +0-1[34] +(38|39|40)\.\d\d GB .*\n1 +1[45]-\d+ +(38|39)\.\d\d GB .*\n2 .*\n3 +4\d-53 +(38|39)\.\d\d GB .*\n", run.Out);
        Assert.Contains("Everything fits", run.Out, StringComparison.Ordinal);
        Assert.Contains("131,072 tokens x 4 conversations", run.Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task PartialOffload_NamesLayersAndExperts()
    {
        var run = (await CommandRun.Async("plan", "--shape", "21b", "--gpu", "16GB")).Succeeded();
        Assert.Contains("On the CPU", run.Out, StringComparison.Ordinal);
        Assert.Matches(@"experts +(\d+ of layers 1-\d+, )?\d+ of layers \d+-27\n", run.Out);
    }

    [Fact]
    public async Task LayersOnTheCpu_AreTheFirstOnes()
    {
        var run = (await CommandRun.Async("plan", "--shape", "21b", "--gpu", "8GB")).Succeeded();
        Assert.Matches(@"experts +64 of layers 1-\d+, .* of layers? \d+-27\n +layers +layers 0-\d+ altogether, and the embedding\n", run.Out);
        Assert.Matches(@"On the CPU +\d+\.\d\d GB of weights, \d+\.\d\d GB of KV cache\n", run.Out);
        run = await CommandRun.Async("plan", "--shape", "21b", "--gpu", "1GB");
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("with every layer but the last on the CPU", run.Out, StringComparison.Ordinal);
        Assert.Contains("a shorter --context", run.Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Columns_AreOfOneUnit_AndAsWideAsTheyMustBe()
    {
        var run = (await CommandRun.Async("plan", ExportedTinyModel.Checkpoint, "--gpu", "9000TB", "--gpu-count", "2")).Succeeded();
        var table = run.Lines.SkipWhile(static line => !line.StartsWith("GPU", StringComparison.Ordinal)).Take(3).ToList();
        Assert.Equal(3, table.Count);
        Assert.Single(table.Select(static line => line.Length).Distinct());
        Assert.All(table.Skip(1), static line => Assert.Matches(@"^\d   +\d-\d( {3,}0\.\d{2,4} GB){3}( {3,}\d+\.\d\d GB){3}$", line));
        Assert.DoesNotContain("MB", run.Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task RequestsWithoutEnd_AreTooMany()
    {
        var run = await CommandRun.Async("plan", "--shape", "0.3b", "--gpu", "24GB", "--requests", "1048576");
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("--requests", run.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("OverflowException", run.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("8")]
    [InlineData("0.5")]
    public async Task NumberWithoutUnit_IsAskedForOne(string number)
    {
        var run = await CommandRun.Async("plan", "--shape", "21b", "--gpu", number);
        Assert.Equal(ExitCode.Usage, run.ExitCode);
        Assert.Contains($"give a unit, such as {number}GB", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ZeroWithoutUnit_IsAskedForASize()
    {
        var run = await CommandRun.Async("plan", "--shape", "21b", "--gpu", "0");
        Assert.Equal(ExitCode.Usage, run.ExitCode);
        Assert.Contains("takes a size such as 80GB or 24GiB; it was '0'", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task OneConversation_IsNoPlural()
    {
        var run = (await CommandRun.Async("plan", "--shape", "21b", "--gpu", "16GB")).Succeeded();
        Assert.Matches(@" 1 conversation( |\n)", run.Out);
        Assert.DoesNotContain(" 1 conversations", run.Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task WhatNeverFits_ReturnsOne()
    {
        var run = await CommandRun.Async("plan", "--shape", "21b", "--gpu", "1GB");
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("Does not fit", run.Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Json_HasTheSame()
    {
        var run = (await CommandRun.Async("plan", ExportedTinyModel.Checkpoint, "--gpu", "1GiB", "--reserve", "0.25GiB", "--kv", "int8", "--json")).Succeeded();
        using var document = JsonDocument.Parse(run.Out);
        var gpu = document.RootElement.GetProperty("gpus")[0];
        Assert.Equal(1L << 30, gpu.GetProperty("capacity_bytes").GetInt64());
        Assert.Equal(1L << 28, gpu.GetProperty("reserve_bytes").GetInt64());
        Assert.Equal(document.RootElement.GetProperty("weight_bytes").GetInt64(), gpu.GetProperty("weight_bytes").GetInt64());
        Assert.True(document.RootElement.GetProperty("fits").GetBoolean());
    }

    [Theory]
    [InlineData("plan", "--gpu", "80GB")]
    [InlineData("plan", "model", "--shape", "21b", "--gpu", "80GB")]
    [InlineData("plan", "--shape", "21b")]
    [InlineData("plan", "--shape", "21b", "--gpu", "80 apples")]
    [InlineData("plan", "--shape", "21b", "--gpu", "80GB", "--context", "0")]
    public async Task WrongUsage_IsTold(params string[] args) => Assert.Equal(ExitCode.Usage, (await CommandRun.Async(args)).ExitCode);

    [Theory]
    [InlineData("80GB", 80_000_000_000)]
    [InlineData("1.5 gib", 3L << 29)]
    [InlineData("512 b", 512)]
    [InlineData("2 MB", 2_000_000)]
    [InlineData("7b", 7)]
    public void Sizes_AreRead(string text, long bytes) => Assert.Equal(bytes, Size.Parse(text));

    [Theory]
    [InlineData("")]
    [InlineData("GB")]
    [InlineData("-1GB")]
    [InlineData("0")]
    [InlineData("1e9")]
    [InlineData("512")]
    [InlineData("99999999999TB")]
    public void OtherTexts_AreNoSizes(string text) => Assert.False(Size.TryParse(text, out _));
}
