using System.ComponentModel;
using System.Diagnostics;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Ernie.Sdk.GpuTests.Peers;

/// <summary>PyTorch on the GPU, in a process of its own: <c>torch_peer.py</c>.</summary>
internal static class TorchPeer
{
    private const int ShownErrorLines = 3;
    /// <summary>Ours are measured after it.</summary>
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(200);

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
            using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
            limit.CancelAfter(s_limit);
            var output = new StringBuilder();
            string? problem = null;
            try
            {
                var error = process.StandardError.ReadToEndAsync(limit.Token);
                await WriteScriptAsync(process.StandardInput, limit.Token).ConfigureAwait(false);
                while (await process.StandardOutput.ReadLineAsync(limit.Token).ConfigureAwait(false) is { } line) output.AppendLine(line);
                await process.WaitForExitAsync(limit.Token).ConfigureAwait(false);
                if (process.ExitCode != 0) problem = $"{python} ended with {process.ExitCode}: {string.Join(' ', (await error.ConfigureAwait(false)).Trim().Split('\n').TakeLast(ShownErrorLines))}";
            }
            catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
            {
                problem = $"{python} did not come to an end in {s_limit.TotalSeconds} s.";
            }
            finally
            {
                if (!process.HasExited) process.Kill(entireProcessTree: true);
            }
            return Parse(output.ToString()) with { Problem = problem };
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
