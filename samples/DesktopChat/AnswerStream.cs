using System.Diagnostics;
using System.Threading.Channels;
using Ernie.Sdk;
using Microsoft.Extensions.AI;

namespace DesktopChat;

/// <summary>A message of the page; its role is user or assistant.</summary>
internal sealed record Message(string Role, string Text);

/// <summary>What the page hears of an answer: reading (the prompt), reasoning, text, done, error.</summary>
internal sealed record AnswerEvent(string Type)
{
    public string? Text { get; init; }
    public int? Done { get; init; }
    public int? Total { get; init; }
    public int? PromptTokens { get; init; }
    public int? CachedTokens { get; init; }
    public int? Tokens { get; init; }

    /// <summary>From the first token to the last.</summary>
    public double? Seconds { get; init; }
    public bool CutOff { get; init; }
}

/// <summary>An answer as it is written.</summary>
internal static class AnswerStream
{
    public static IAsyncEnumerable<AnswerEvent> Run(ErnieModel model, IReadOnlyList<Message> messages, CancellationToken cancellationToken)
    {
        // Progress comes from the engine's thread, updates come to ours: a channel brings them in line.
        var events = Channel.CreateUnbounded<AnswerEvent>(new UnboundedChannelOptions { SingleReader = true });
        _ = WriteAsync(model, messages, events.Writer, cancellationToken);
        return events.Reader.ReadAllAsync(cancellationToken);
    }

    private static async Task WriteAsync(ErnieModel model, IReadOnlyList<Message> messages, ChannelWriter<AnswerEvent> events, CancellationToken cancellationToken)
    {
        try
        {
            var options = new ChatOptions { RawRepresentationFactory = _ => new ErnieGenerationOptions { PrefillProgress = new Reading(events) } };
            var chat = messages.Select(static message => new ChatMessage(message.Role == "user" ? ChatRole.User : ChatRole.Assistant, message.Text));
            long first = 0, last = 0;
            await foreach (var update in model.AsChatClient().GetStreamingResponseAsync(chat, options, cancellationToken))
            {
                foreach (var content in update.Contents)
                {
                    if (content is TextReasoningContent or TextContent)
                    {
                        last = Stopwatch.GetTimestamp();
                        if (first == 0) first = last;
                    }
                    var made = content switch
                    {
                        TextReasoningContent reasoning => new AnswerEvent("reasoning") { Text = reasoning.Text },
                        TextContent text => new AnswerEvent("text") { Text = text.Text },
                        ErrorContent error => new AnswerEvent("error") { Text = error.Message },
                        UsageContent { Details: var usage } => new AnswerEvent("done")
                        {
                            PromptTokens = (int?)usage.InputTokenCount, CachedTokens = (int?)usage.CachedInputTokenCount, Tokens = (int?)usage.OutputTokenCount,
                            Seconds = Stopwatch.GetElapsedTime(first, last).TotalSeconds, CutOff = update.FinishReason == ChatFinishReason.Length,
                        },
                        _ => null,
                    };
                    if (made is not null) events.TryWrite(made);
                }
            }
        }
        catch (OperationCanceledException)
        {
            // The page has stopped it and does not listen any more.
        }
#pragma warning disable CA1031 // The window shows what went wrong, whatever it was.
        catch (Exception e)
#pragma warning restore CA1031
        {
            events.TryWrite(new AnswerEvent("error") { Text = e is ObjectDisposedException ? "The model was closed." : e.Message });
        }
        events.Complete();
    }

    private sealed class Reading(ChannelWriter<AnswerEvent> events) : IProgress<ErniePrefillProgress>
    {
        public void Report(ErniePrefillProgress value) => events.TryWrite(new AnswerEvent("reading") { Done = value.ComputedTokens + value.CachedTokens, Total = value.PromptTokens });
    }
}
