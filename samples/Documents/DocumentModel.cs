using System.Diagnostics;
using Ernie.Sdk;
using Microsoft.Extensions.AI;

namespace Samples.Documents;

/// <summary>A model that is asked about long documents. Progress, counts and times go to standard error, so that standard output holds the result alone.</summary>
internal sealed class DocumentModel : IAsyncDisposable
{
    private static readonly string s_tiny = Path.Combine(AppContext.BaseDirectory, "ernie-tiny-moe");
    private readonly ErnieModel _model;
    private readonly IChatClient _client;

    private DocumentModel(ErnieModel model) => (_model, _client) = (model, model.AsChatClient());

    public int ContextLength => _model.ContextLength;

    public static async Task<DocumentModel> LoadAsync(string? path, CancellationToken cancellationToken)
    {
        // Every question about a document begins with the document: keep all of it for the next one, not just a quarter of the cache.
        var options = new ErnieModelOptions { PrefixCacheBytes = long.MaxValue };
        var model = await ErnieModel.LoadAsync(path ?? s_tiny, options, new ExportProgress(), cancellationToken);
        Console.Error.WriteLine($"{model.ModelId}, {model.ContextLength:N0} tokens of context");
        return new DocumentModel(model);
    }

    /// <summary>Runs a sample: Ctrl+C ends it, and what the library refuses is one line.</summary>
    public static async Task<int> RunAsync(Func<CancellationToken, Task<int>> sample)
    {
        using var stop = new CancellationTokenSource();
        Console.CancelKeyPress += (_, e) =>
        {
            e.Cancel = true;
            stop.Cancel();
        };
        try
        {
            return await sample(stop.Token);
        }
        catch (OperationCanceledException)
        {
            return 130;
        }
        catch (Exception e) when (e is InvalidDataException or NotSupportedException or IOException or UnauthorizedAccessException or InvalidOperationException or ArgumentException)
        {
            Console.Error.WriteLine(e.Message);
            return 1;
        }
    }

    public int Count(string text) => _model.Tokenizer!.CountTokens(text);

    /// <summary>Tokens for the documents, when the whole prompt may have so many and the template, the question and the answer take their share.</summary>
    public int Room(int tokens, int answer) => Math.Min(tokens, ContextLength - answer) - Math.Min(512, tokens / 8);

    /// <summary>Asks, writes the answer as it comes, and says what it took.</summary>
    /// <param name="format">Null for free text; a JSON schema is kept by a grammar, whatever the model would rather say.</param>
    public async Task<string> AskAsync(IEnumerable<ChatMessage> messages, ChatResponseFormat? format, int maxTokens, TextWriter output, CancellationToken cancellationToken)
    {
        var progress = new PrefillProgress();
        var options = new ChatOptions
        {
            ResponseFormat = format,
            Temperature = 0,
            MaxOutputTokens = maxTokens,
            // Of a thinking model too, the answer is wanted at once.
            Reasoning = new ReasoningOptions { Effort = ReasoningEffort.None },
            RawRepresentationFactory = _ => new ErnieGenerationOptions { PrefillProgress = progress },
        };
        var clock = Stopwatch.StartNew();
        TimeSpan? first = null;
        var updates = new List<ChatResponseUpdate>();
        await foreach (var update in _client.GetStreamingResponseAsync(messages, options, cancellationToken))
        {
            if (first is null)
            {
                first = clock.Elapsed;
                progress.Clear();
            }
            updates.Add(update);
            await output.WriteAsync(update.Text);
            await output.FlushAsync(cancellationToken);
        }
        await output.WriteLineAsync();
        var (prefill, decode) = ((first ?? clock.Elapsed).TotalSeconds, (clock.Elapsed - (first ?? clock.Elapsed)).TotalSeconds);
        var response = updates.ToChatResponse();
        var usage = response.Usage!;
        var computed = usage.InputTokenCount - usage.CachedInputTokenCount;
        Console.Error.WriteLine(
            $"  [{usage.InputTokenCount:N0} tokens read, {usage.CachedInputTokenCount:N0} of them from the cache: {prefill:F2} s, {computed / prefill:N0} tokens/s; " +
            $"{usage.OutputTokenCount:N0} written: {decode:F2} s]");
        return response.Text;
    }

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        await _model.DisposeAsync();
    }
}
