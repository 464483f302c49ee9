using System.ComponentModel;
using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Ernie.Sdk.GpuTests.Peers;

/// <summary>PyTorch on the GPU, in a process of its own: <c>torch_peer.py</c>.</summary>
internal static class TorchPeer
{
    private const int ShownErrorLines = 3;

    /// <summary>Measures what a plan asks for.</summary>
    /// <param name="python">Name or path of the interpreter.</param>
    /// <param name="plan">Name, kind and sizes of each.</param>
    /// <param name="cancellationToken">Ends the process.</param>
    public static async Task<TorchResult> RunAsync(string python, IEnumerable<JsonObject> plan, CancellationToken cancellationToken)
    {
        Process process;
        try
        {
            process = Process.Start(new ProcessStartInfo(python, ["-", new JsonArray([.. plan]).ToJsonString()]) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true })!;
        }
        catch (Win32Exception e)
        {
            return new TorchResult { Absent = $"{python} does not start: {e.Message}. --python names another interpreter." };
        }
        using (process)
        {
            try
            {
                var (output, error) = (process.StandardOutput.ReadToEndAsync(cancellationToken), process.StandardError.ReadToEndAsync(cancellationToken));
                await WriteScriptAsync(process.StandardInput, cancellationToken).ConfigureAwait(false);
                var result = Parse(await output.ConfigureAwait(false));
                await process.WaitForExitAsync(cancellationToken).ConfigureAwait(false);
                if (process.ExitCode == 0) return result;
                var last = (await error.ConfigureAwait(false)).Trim().Split('\n').TakeLast(ShownErrorLines);
                return result with { Problem = $"{python} ended with {process.ExitCode}: {string.Join(' ', last)}" };
            }
            finally
            {
                if (!process.HasExited) process.Kill(entireProcessTree: true);
            }
        }
    }

    /// <summary>The lines that the script prints. Others, such as a library's warnings, are passed over.</summary>
    public static TorchResult Parse(string output)
    {
        var result = new TorchResult();
        foreach (var line in output.Split('\n').Where(static line => line.StartsWith('{')))
        {
            JsonElement fields;
            try
            {
                using var document = JsonDocument.Parse(line);
                fields = document.RootElement.Clone();
            }
            catch (JsonException)
            {
                // The process ended in the middle of it.
                continue;
            }
            string? Text(string name) => fields.TryGetProperty(name, out var value) ? value.GetString() : null;
            if (Text("absent") is { } absent) result = result with { Absent = absent };
            else if (Text("torch") is { } torch) result = result with { Version = $"PyTorch {torch}, CUDA {Text("cuda")}, {Text("device")}" };
            else if (Text("name") is { } name && fields.TryGetProperty("seconds", out var seconds)) result.Seconds[name] = seconds.GetDouble();
            else if (Text("name") is { } skipped) result.Skipped[skipped] = Text("skipped") ?? "It gave no number.";
        }
        return result;
    }

    private static async Task WriteScriptAsync(StreamWriter input, CancellationToken cancellationToken)
    {
        using var script = typeof(TorchPeer).Assembly.GetManifestResourceStream("Ernie.Sdk.GpuTests.Peers.torch_peer.py")!;
        try
        {
            await script.CopyToAsync(input.BaseStream, cancellationToken).ConfigureAwait(false);
            input.Close();
        }
        catch (IOException)
        {
            // It ended without reading: its exit code says so.
        }
    }
}

/// <summary>What PyTorch said.</summary>
internal sealed record TorchResult
{
    /// <summary>Why there is nothing; null where there is.</summary>
    public string? Absent { get; init; }
    /// <summary>How it ended, where not well.</summary>
    public string? Problem { get; init; }
    public string? Version { get; init; }
    /// <summary>By name.</summary>
    public Dictionary<string, double> Seconds { get; } = [];
    /// <summary>Why, by name.</summary>
    public Dictionary<string, string> Skipped { get; } = [];
}
