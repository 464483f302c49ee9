using System.Diagnostics;
using System.Globalization;
using System.Text;
using System.Text.Json;
using Ernie.Sdk;
using Microsoft.Extensions.AI;

namespace Ernie.Cli.Chatting;

/// <summary>A conversation at a terminal, or with lines from a pipe.</summary>
internal sealed class ChatSession(ErnieModel model, ChatOptions options, CommandStreams streams, string? system)
{
    private const long MostFileBytes = 64 << 20;
    private const string Help = """
        /file PATH     puts a text file before the next message
        /system TEXT   sets the system prompt; without TEXT shows it, with - removes it
        /new           forgets the conversation, as does /clear
        /save PATH     writes the conversation as JSON
        /load PATH     goes on with a saved one
        /exit          ends, as does the end of the input
        Arrows go back to earlier messages, Ctrl+U clears the line.
        A line that ends with \ goes on in the next; pasted lines are one message; //text sends /text. Ctrl+C stops an answer.
        """;
    private readonly IChatClient _client = model.AsChatClient();
    private readonly ChatScreen _screen = new(streams, ChatScreen.Colours(streams));
    private readonly StringBuilder _files = new();
    private List<ChatMessage> _history = [];
    private string? _system = system;

    public async Task RunAsync(CancellationToken cancellationToken)
    {
        var reader = new MessageReader(streams);
        if (streams.InIsTerminal) _screen.Note($"{model.ModelId}, {model.ContextLength} tokens of context. /help lists commands, /exit ends, Ctrl+C stops an answer.");
        while (await reader.ReadAsync(_screen.Prompt, cancellationToken).ConfigureAwait(false) is { } message)
        {
            try
            {
                if (message.StartsWith('/') && !message.StartsWith("//", StringComparison.Ordinal))
                {
                    if (!await CommandAsync(message.Trim(), cancellationToken).ConfigureAwait(false)) return;
                }
                else if (!string.IsNullOrWhiteSpace(message) || _files.Length > 0) await AnswerAsync(message.StartsWith('/') ? message[1..] : message, cancellationToken).ConfigureAwait(false);
            }
            catch (Exception e) when (streams.InIsTerminal && ErrorLine.IsExpected(e))
            {
                // Whoever sits there can say it otherwise; a script must not go on.
                _screen.Note(ErrorLine.Of(e));
            }
        }
    }

    /// <returns>False when the program shall end.</returns>
    private async Task<bool> CommandAsync(string line, CancellationToken cancellationToken)
    {
        var (command, rest) = line.IndexOf(' ', StringComparison.Ordinal) is > 0 and var space ? (line[..space], line[(space + 1)..].Trim()) : (line, "");
        switch (command)
        {
            case "/exit" or "/quit":
                return false;
            case "/help":
                _screen.Note(Help);
                break;
            case "/new" or "/clear":
                _history = [];
                _files.Clear();
                _screen.Note("The conversation is forgotten.");
                break;
            case "/system":
                if (rest.Length > 0) _system = rest == "-" ? null : rest;
                _screen.Note(_system is null ? "There is no system prompt." : $"System prompt: {_system}");
                break;
            case "/file":
                await AttachAsync(PathOf(command, rest), cancellationToken).ConfigureAwait(false);
                break;
            case "/save":
                Save(PathOf(command, rest));
                break;
            case "/load":
                await LoadAsync(PathOf(command, rest), cancellationToken).ConfigureAwait(false);
                break;
            default:
                throw new ArgumentException($"There is no command {command}; /help lists them. To send it as text, write /{command}.");
        }
        return true;
    }

    private async Task AnswerAsync(string text, CancellationToken cancellationToken)
    {
        var question = new ChatMessage(ChatRole.User, _files + text);
        var updates = new List<ChatResponseUpdate>();
        UsageDetails? usage = null;
        var start = Stopwatch.GetTimestamp();
        long first = 0;
        var isStopped = false;
        using var reading = new ProgressLine(streams, "reading");
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        var request = options.Clone();
        request.RawRepresentationFactory = _ => new ErnieGenerationOptions { PrefillProgress = new PromptProgress(reading) };
        try
        {
            using var interruption = streams.Interruption.Take(stop.Cancel);
            await foreach (var update in _client.GetStreamingResponseAsync(Messages(question), request, stop.Token).ConfigureAwait(false))
            {
                if (first == 0)
                {
                    first = Stopwatch.GetTimestamp();
                    reading.Clear();
                }
                updates.Add(update);
                foreach (var content in update.Contents)
                {
                    if (content is TextReasoningContent reasoning) _screen.Reasoning(reasoning.Text);
                    else if (content is TextContent answer) _screen.Answer(answer.Text);
                    else if (content is UsageContent { Details: var details }) usage = details;
                }
            }
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            isStopped = true;
        }
        reading.Clear();
        var end = Stopwatch.GetTimestamp();
        _screen.End(usage is null ? isStopped ? "[stopped]" : "[nothing was said]" : About(usage, Stopwatch.GetElapsedTime(start, first), Stopwatch.GetElapsedTime(first, end), updates[^1].FinishReason));
        // What was said so far stays part of the conversation; without an answer the question, and the files with it, can be asked again.
        if (updates.Count == 0) return;
        _files.Clear();
        _history.Add(question);
        _history.AddMessages(updates);
    }

    private static string About(UsageDetails usage, TimeSpan first, TimeSpan rest, ChatFinishReason? finish)
    {
        var (output, reasoning, cached) = (usage.OutputTokenCount ?? 0, usage.ReasoningTokenCount ?? 0, usage.CachedInputTokenCount ?? 0);
        var line = new StringBuilder("[").Append(CultureInfo.InvariantCulture, $"{output} tokens");
        if (reasoning > 0) line.Append(CultureInfo.InvariantCulture, $" ({reasoning} of reasoning)");
        line.Append(CultureInfo.InvariantCulture, $" after {usage.InputTokenCount} of prompt ({cached} cached), first in {first.TotalSeconds:F2} s");
        if (output > 1 && rest > TimeSpan.Zero) line.Append(CultureInfo.InvariantCulture, $", then {(output - 1) / rest.TotalSeconds:F1} tokens/s");
        if (finish == ChatFinishReason.Length) line.Append("; cut off at the limit of tokens");
        return line.Append(']').ToString();
    }

    private List<ChatMessage> Messages(params IEnumerable<ChatMessage> more) => [.. _system is null ? Array.Empty<ChatMessage>() : [new ChatMessage(ChatRole.System, _system)], .. _history, .. more];

    private async Task AttachAsync(string path, CancellationToken cancellationToken)
    {
        var size = new FileInfo(path) is { Exists: true } file ? file.Length : throw new FileNotFoundException($"There is no file {path}.");
        if (size > MostFileBytes) throw new InvalidDataException($"{path} has {Size.Text(size)}, more than the {Size.Text(MostFileBytes)} allowed.");
        string text;
        try
        {
            text = new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(await File.ReadAllBytesAsync(path, cancellationToken).ConfigureAwait(false)).TrimStart('\uFEFF');
        }
        catch (DecoderFallbackException e)
        {
            throw new InvalidDataException($"{path} is no UTF-8 text.", e);
        }
        _files.Append(CultureInfo.InvariantCulture, $"{Path.GetFileName(path)}:\n{text.TrimEnd()}\n\n");
        _screen.Note(string.Create(CultureInfo.InvariantCulture, $"{path}: {model.Tokenizer!.CountTokens(text)} tokens go before the next message."));
    }

    private void Save(string path)
    {
        var messages = Messages();
        WholeFile.Write(path, JsonSerializer.SerializeToUtf8Bytes(messages, AIJsonUtilities.DefaultOptions));
        _screen.Note($"{path}: {messages.Count} messages.");
    }

    private async Task LoadAsync(string path, CancellationToken cancellationToken)
    {
        List<ChatMessage>? messages;
        try
        {
            messages = JsonSerializer.Deserialize<List<ChatMessage>>(await File.ReadAllBytesAsync(path, cancellationToken).ConfigureAwait(false), AIJsonUtilities.DefaultOptions);
        }
        catch (Exception e) when (e is JsonException or NotSupportedException)
        {
            throw new InvalidDataException($"{path} is no saved conversation: {e.Message}", e);
        }
        if (messages is null || messages.Contains(null!)) throw new InvalidDataException($"{path} is no saved conversation: expected an array of messages.");
        _system = messages is [{ Role: var role }, ..] && role == ChatRole.System ? messages[0].Text : null;
        _history = _system is null ? messages : messages[1..];
        _screen.Note($"{path}: {messages.Count} messages.");
    }

    private static string PathOf(string command, string rest)
    {
        if (rest.Length == 0) throw new ArgumentException($"{command} wants a path.");
        if (rest.Length > 2 && rest[0] == rest[^1] && rest[0] is '"' or '\'') rest = rest[1..^1];
        return rest.StartsWith("~/", StringComparison.Ordinal) ? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), rest[2..]) : rest;
    }

    /// <summary>How far a long prompt has been read.</summary>
    private sealed class PromptProgress(ProgressLine line) : IProgress<ErniePrefillProgress>
    {
        public void Report(ErniePrefillProgress value) => line.Show((double)value.ComputedTokens / Math.Max(1, value.PromptTokens), () => string.Create(CultureInfo.InvariantCulture, $"{value.ComputedTokens} of {value.PromptTokens} tokens"));
    }
}
