namespace Ernie.Sdk.Tests.Support;

/// <summary>The console samples, most of which read long documents, as processes of their own. They share a data folder: the first one exports the tiny model, the others find it there.</summary>
internal static class DocumentSample
{
    private static readonly TimeSpan s_limit = TimeSpan.FromMinutes(5);
    private static readonly TemporaryFolder s_data = new();
    private static readonly Lazy<ErnieTokenizer> s_tokenizer = new(static () => ErnieTokenizer.Load(TinyModel.Checkpoint));

    static DocumentSample() => AppDomain.CurrentDomain.ProcessExit += (_, _) => s_data.Dispose();

    /// <summary>Tokens of a text, as the samples count them when they fill a document.</summary>
    public static int Count(string text) => s_tokenizer.Value.CountTokens(text);

    public static Task<ChildProcess.Result> RunAsync(string sample, params string[] arguments) => RunAsync(sample, arguments, "");

    public static Task<ChildProcess.Result> RunAsync(string sample, string[] arguments, string input) =>
        ChildProcess.RunAsync("dotnet", [Path.Combine(AppContext.BaseDirectory, $"{sample}.dll"), .. arguments], limit: s_limit, environment: new Dictionary<string, string> { ["XDG_DATA_HOME"] = s_data.Path }, input: input);

    /// <summary>A run that succeeds.</summary>
    public static async Task<ChildProcess.Result> SucceedAsync(string sample, params string[] arguments)
    {
        var result = await RunAsync(sample, arguments);
        Assert.True(result.ExitCode == 0, $"{sample} ended with {result.ExitCode}: {result.Error}{result.Output}");
        return result;
    }

    /// <summary>A run that is refused, with a line that says why and no result.</summary>
    public static async Task AssertRefusedAsync(string sample, int exitCode, string cause, string arguments)
    {
        var result = await RunAsync(sample, arguments.Split(' ', StringSplitOptions.RemoveEmptyEntries));
        Assert.Equal((exitCode, ""), (result.ExitCode, result.Output));
        Assert.Contains(cause, result.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", result.Error, StringComparison.Ordinal);
    }
}
