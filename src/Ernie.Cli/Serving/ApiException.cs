using Ernie.Sdk;
using Microsoft.AspNetCore.Http;

namespace Ernie.Cli.Serving;

/// <summary>An answer in the shape of OpenAI's errors.</summary>
/// <param name="status">HTTP status.</param>
/// <param name="message">What is wrong, and the cure.</param>
/// <param name="param">Field of the request that is at fault, as a path: <c>messages[2].role</c>.</param>
/// <param name="code">A word for programs.</param>
internal sealed class ApiException(int status, string message, string? param = null, string? code = null) : Exception(message)
{
    // The library names its own options; a client knows the fields of its request.
    private static readonly (string Option, string Field)[] s_fields =
    [
        ("ChatOptions.ResponseFormat", "response_format"), ("ChatOptions.ToolMode", "tool_choice"), ("ChatOptions.Tools", "tools"), ("ChatOptions.Reasoning", "reasoning_effort"),
        ("ChatOptions.StopSequences", "stop"), ("ChatOptions.AllowMultipleToolCalls", "parallel_tool_calls"), ("MaxOutputTokens", "max_completion_tokens"), ("JSON schema", "response_format"),
    ];

    public int Status => status;
    public string? Field => param;
    public string? Code => code;

    public string Type => status switch
    {
        StatusCodes.Status401Unauthorized => "authentication_error",
        StatusCodes.Status429TooManyRequests => "rate_limit_error",
        >= 500 => "server_error",
        _ => "invalid_request_error",
    };

    /// <summary>What a failure of the library means to a client; null where it is the server's own fault.</summary>
    /// <param name="failure">What was thrown.</param>
    /// <param name="prompt">Name of the field that holds the prompt.</param>
    public static ApiException? Of(Exception failure, string prompt = "messages") => failure switch
    {
        ApiException api => api,
        ErnieQueueFullException => new ApiException(StatusCodes.Status429TooManyRequests, LibraryTerms.OfRequest(failure, failure.Message), code: "queue_full"),
        ErnieContextOverflowException => new ApiException(StatusCodes.Status400BadRequest, LibraryTerms.OfRequest(failure, failure.Message), prompt, "context_length_exceeded"),
        BadHttpRequestException bad => new ApiException(bad.StatusCode, bad.Message),
        ObjectDisposedException => new ApiException(StatusCodes.Status503ServiceUnavailable, "The server is stopping."),
        NotSupportedException => new ApiException(StatusCodes.Status400BadRequest, LibraryTerms.OfRequest(failure, failure.Message), FieldOf(failure.Message) ?? prompt, "unsupported"),
        ArgumentException => new ApiException(StatusCodes.Status400BadRequest, LibraryTerms.OfRequest(failure, ErrorLine.Of(failure)), FieldOf(failure.Message) ?? prompt),
        _ => null,
    };

    private static string? FieldOf(string message) => Array.Find(s_fields, field => message.Contains(field.Option, StringComparison.Ordinal)).Field;
}
