using Ernie.Sdk.Fuzz;

namespace Ernie.Sdk.Tests.Checkpoints;

/// <summary>A few thousand hostile inputs; the runner in tests/Ernie.Sdk.Fuzz takes millions.</summary>
public class CheckpointFuzzTests
{
    public static TheoryData<string> Readers { get; } = [.. FuzzReaders.All.Select(static reader => reader.Name)];

    [Theory]
    [MemberData(nameof(Readers))]
    public void HostileInputs_AreReadOrRefused(string name)
    {
        var reader = FuzzReaders.All.Single(reader => reader.Name == name);
        var result = FuzzRun.Run(reader, name is "sample" or "added-tokens" or "tokenizer-config" ? 300 : 2000, seed: 20260301);
        Assert.True(result.Failures.Count == 0, result.ToString());
        Assert.True(result.Accepted > 0 && result.Exceptions.Count > 0, result.ToString());
    }
}
