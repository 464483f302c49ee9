namespace Ernie.Sdk.Tests.Cli;

/// <summary>The committed tiny model, exported as bf16 once for all tests of a class.</summary>
public sealed class ExportedTinyModel : IAsyncLifetime
{
    private readonly TemporaryFolder _folder = new();

    public static string Checkpoint { get; } = Path.Combine(SharedData.RepositoryRoot, "samples", "ernie-tiny-moe");

    public string Model => _folder.File("tiny");

    public async ValueTask InitializeAsync() => (await CommandRun.Async("export", Checkpoint, Model, "--experts", "bf16", "--dense", "bf16")).Succeeded();

    public ValueTask DisposeAsync()
    {
        _folder.Dispose();
        return ValueTask.CompletedTask;
    }
}
