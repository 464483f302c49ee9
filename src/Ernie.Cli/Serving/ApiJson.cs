using System.Buffers;
using System.Text.Encodings.Web;
using System.Text.Json;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.AI;

namespace Ernie.Cli.Serving;

/// <summary>Writes JSON answers: whole, or as server-sent events.</summary>
internal static class ApiJson
{
    private const string EventStreamType = "text/event-stream; charset=utf-8";

    // The type of the content says that it is no HTML.
    private static readonly JsonWriterOptions s_options = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    public static async Task WriteAsync(HttpContext context, Action<Utf8JsonWriter> write, int status = StatusCodes.Status200OK)
    {
        var json = Serialize(write);
        context.Response.StatusCode = status;
        context.Response.ContentType = "application/json; charset=utf-8";
        context.Response.ContentLength = json.WrittenCount;
        await context.Response.Body.WriteAsync(json.WrittenMemory, context.RequestAborted).ConfigureAwait(false);
    }

    public static Task WriteErrorAsync(HttpContext context, ApiException error)
    {
        if (error.Status == StatusCodes.Status429TooManyRequests) context.Response.Headers.RetryAfter = "1";
        if (error.Status == StatusCodes.Status401Unauthorized) context.Response.Headers.WWWAuthenticate = "Bearer";
        return WriteAsync(context, json => WriteError(json, error), error.Status);
    }

    /// <summary>Whether the answer is a stream of events whose status has gone out.</summary>
    public static bool HasBegunEvents(HttpContext context) => context.Response.HasStarted && context.Response.ContentType == EventStreamType;

    public static async Task BeginEventsAsync(HttpContext context)
    {
        context.Response.ContentType = EventStreamType;
        context.Response.Headers.CacheControl = "no-cache";
        await context.Response.StartAsync(context.RequestAborted).ConfigureAwait(false);
    }

    public static async Task WriteEventAsync(HttpContext context, Action<Utf8JsonWriter> write)
    {
        var json = Serialize(write);
        await WriteEventAsync(context, json.WrittenMemory).ConfigureAwait(false);
    }

    public static async Task WriteEventAsync(HttpContext context, ReadOnlyMemory<byte> data)
    {
        context.Response.BodyWriter.Write("data: "u8);
        context.Response.BodyWriter.Write(data.Span);
        context.Response.BodyWriter.Write("\n\n"u8);
        await context.Response.BodyWriter.FlushAsync(context.RequestAborted).ConfigureAwait(false);
    }

    public static void WriteError(Utf8JsonWriter json, ApiException error)
    {
        json.WriteStartObject();
        json.WriteStartObject("error");
        json.WriteString("message", error.Message);
        json.WriteString("type", error.Type);
        json.WriteString("param", error.Field);
        json.WriteString("code", error.Code);
        json.WriteEndObject();
        json.WriteEndObject();
    }

    public static void WriteUsage(Utf8JsonWriter json, UsageDetails usage)
    {
        json.WriteStartObject("usage");
        json.WriteNumber("prompt_tokens", usage.InputTokenCount ?? 0);
        json.WriteNumber("completion_tokens", usage.OutputTokenCount ?? 0);
        json.WriteNumber("total_tokens", usage.TotalTokenCount ?? 0);
        json.WriteStartObject("prompt_tokens_details");
        json.WriteNumber("cached_tokens", usage.CachedInputTokenCount ?? 0);
        json.WriteEndObject();
        json.WriteStartObject("completion_tokens_details");
        json.WriteNumber("reasoning_tokens", usage.ReasoningTokenCount ?? 0);
        json.WriteEndObject();
        json.WriteEndObject();
    }

    /// <summary>The beginning that chat and text completions share.</summary>
    public static void WriteHead(Utf8JsonWriter json, string id, string kind, DateTimeOffset created, string model)
    {
        json.WriteStartObject();
        json.WriteString("id", id);
        json.WriteString("object", kind);
        json.WriteNumber("created", created.ToUnixTimeSeconds());
        json.WriteString("model", model);
    }

    private static ArrayBufferWriter<byte> Serialize(Action<Utf8JsonWriter> write)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using var json = new Utf8JsonWriter(buffer, s_options);
        write(json);
        json.Flush();
        return buffer;
    }
}
