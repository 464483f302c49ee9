namespace Ernie.Sdk.Tests.Interop;

/// <summary><c>ernie serve</c> as a process of its own, with a key and one request at a time, for the tests of a class.</summary>
public sealed class ServeProcess : IAsyncLifetime
{
    private RunningProgram _program = null!;

    public static string Key => "the key";

    public static string ModelId => "ernie-tiny-moe";

    public Uri Url { get; private set; } = null!;

    public async ValueTask InitializeAsync()
    {
        _program = RunningProgram.Start("ernie.dll", "serve", await TinyModel.ExportedAsync(), "--template", "thinking", "--urls", "http://127.0.0.1:0", "--api-key", Key, "--max-requests", "1", "--max-queue", "1", "--kv", "fp32", "--threads", "2");
        var line = await _program.LineAsync(static line => line.Contains("chat at ", StringComparison.Ordinal));
        Url = new Uri(line[line.IndexOf("http", StringComparison.Ordinal)..line.IndexOf(',', StringComparison.Ordinal)]);
    }

    public ValueTask DisposeAsync() => _program.DisposeAsync();
}
