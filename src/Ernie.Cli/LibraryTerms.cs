using System.Text.RegularExpressions;
using Ernie.Sdk;

namespace Ernie.Cli;

/// <summary>The library's messages name its own options. Whoever types a command, or sends a request, knows those of the command and the fields of the request.</summary>
internal static partial class LibraryTerms
{
    /// <summary>Not every command has them all.</summary>
    private const string SmallerCache = "--kv int8, for chat and serve a shorter --context, for serve fewer --max-requests";

    // Longer ones before those that they contain.
    private static readonly (string Library, string Own)[] s_command =
    [
        // Whoever runs the tool has no project to reference a package in.
        ("Reference Microsoft.ML.OnnxRuntime.Gpu instead of Microsoft.ML.OnnxRuntime in the application; never both.", "This tool was built for the CPU: leave --device out, or pack it anew with -p:OnnxRuntimePackage=Microsoft.ML.OnnxRuntime.Gpu."),
        ("Set a smaller ErnieModelOptions.KvCacheBytes.", $"Set {SmallerCache}."),
        ("set a shorter ContextLength, a smaller KvCacheBytes, KvCacheType or MaxConcurrentRequests", $"set {SmallerCache}"), ("set a smaller KvCacheBytes or ContextLength", $"set {SmallerCache}"),
        ("Set a smaller ErnieModelOptions.PrefillChunkTokens, MaxConcurrentRequests or KvCacheBytes", $"Set {SmallerCache}"),
        ("of which GpuMemoryBytes allows", "of which --gpu-memory allows"), ("or a larger GpuMemoryBytes", "or a larger --gpu-memory"),
        ("ExpertPrefetch is On", "--expert-prefetch is on"), ("Leave ExpertPrefetch at Auto", "Leave --expert-prefetch at auto"),
        ("GpuCount is ", "--gpu-count is "), ("Set GpuCount to ", "Set --gpu-count to "), ("a GpuCount of more", "a --gpu-count of more"), ("a smaller GpuCount", "a smaller --gpu-count"),
        ("ErnieModelOptions.CacheDirectory is empty. Name a folder, or leave it null.", "--cache is empty. Name a folder, or leave it out."),
        ("ErnieModelOptions.CacheDirectory", "--cache"), ("ErnieModelOptions.ContextLength", "--context"), ("ErnieModelOptions.MaxQueuedRequests", "--max-queue"), ("ErnieModelOptions.Device", "--device"), ("ErnieModelOptions.GpuMemoryBytes", "--gpu-memory"), ("ErnieModelOptions.CudaGraphs", "--cuda-graphs"), ("ErnieModelOptions.CudaOverlap", "--cuda-overlap"),
        ("ErnieDevice.Cpu", "--device cpu"), ("ErnieDevice.Auto", "--device auto"),
    ];

    private static readonly (string Library, string Own)[] s_request =
    [
        (Sdk.Chat.Templates.ChatTemplate.ForTools, "For a model that was trained on reasoning and tools, start the server with --template thinking."),
        ("leave Tools empty, or set ToolMode to None.", "leave 'tools' out, or send \"tool_choice\": \"none\"."), ("Otherwise use None.", "Otherwise send \"none\"."),
        ("ChatOptions.ResponseFormat", "'response_format'"), ("ChatOptions.ToolMode", "'tool_choice'"), ("ChatOptions.Tools", "'tools'"), ("ChatOptions.Reasoning.Effort", "'reasoning_effort'"), ("ChatOptions.Reasoning", "'reasoning_effort'"),
        ("ChatOptions.StopSequences", "'stop'"), ("ChatOptions.AllowMultipleToolCalls", "'parallel_tool_calls'"), ("ChatOptions.MaxOutputTokens", "'max_completion_tokens'"), ("MaxOutputTokens", "'max_completion_tokens'"),
        ("Additional property ", ""),
    ];

    /// <summary>A failure of the library in words of the command line.</summary>
    public static string OfCommand(Exception failure) => failure switch
    {
        ErnieContextOverflowException e => $"{Counts(e)} Shorten it, in a chat with /new, or start chat or serve with a longer --context; --kv int8 lets more fit into the same memory.",
        _ => OfCommand(failure.Message),
    };

    /// <summary>A sentence of the library, likewise.</summary>
    public static string OfCommand(string message) => GpuMemory().Replace(Replace(message, s_command), static match => $"Set --gpu-memory {match.Groups[1].Value.Replace(",", "", StringComparison.Ordinal)}B or more");

    /// <summary>A failure of the library in words of OpenAI's API.</summary>
    /// <param name="failure">What was thrown.</param>
    /// <param name="message">Its message, trimmed for people.</param>
    public static string OfRequest(Exception failure, string message) => failure is ErnieContextOverflowException e
        ? $"{Counts(e)} Shorten it, or start the server with a longer --context; --kv int8 lets more fit into the same memory." : OfCommand(Replace(message, s_request));

    private static string Counts(ErnieContextOverflowException e) =>
        string.Create(System.Globalization.CultureInfo.InvariantCulture, $"The prompt has {e.PromptTokens} tokens; with a context of {e.ContextLength} it may have at most {e.MaxPromptTokens}.");

    private static string Replace(string message, (string Library, string Own)[] terms)
    {
        foreach (var (library, own) in terms) message = message.Replace(library, own, StringComparison.Ordinal);
        return message;
    }

    /// <summary>The library's figures are for people; one that is typed has a unit and nothing between its digits.</summary>
    [GeneratedRegex("Set GpuMemoryBytes to ([0-9,]+) or more")]
    private static partial Regex GpuMemory();
}
