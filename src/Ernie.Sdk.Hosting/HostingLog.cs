using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Hosting;

/// <summary>What a host's log says. Texts of prompts and answers are never part of it.</summary>
internal static partial class HostingLog
{
    [LoggerMessage(1, LogLevel.Information, "Loading the model in {Path}.")]
    public static partial void Loading(ILogger logger, string path);

    [LoggerMessage(2, LogLevel.Information, "{Model} is ready after {Seconds:F1} s.")]
    public static partial void Loaded(ILogger logger, string model, double seconds);

    [LoggerMessage(3, LogLevel.Critical, "The model in {Path} cannot be loaded: every request will fail. Correct the cause and start the host again.")]
    public static partial void LoadFailed(ILogger logger, Exception exception, string path);

    [LoggerMessage(4, LogLevel.Debug, "Answered: {InputTokens} prompt tokens, {CachedTokens} of them cached, {OutputTokens} tokens in {Milliseconds:F0} ms, finish reason {FinishReason}.")]
    public static partial void Answered(ILogger logger, long? inputTokens, long? cachedTokens, long? outputTokens, double milliseconds, string? finishReason);
}
