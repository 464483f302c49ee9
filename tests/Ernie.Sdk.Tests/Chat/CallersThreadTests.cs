using System.Text.Json;
using Ernie.Sdk.Chat;
using Ernie.Sdk.Chat.Templates;
using Ernie.Sdk.Kernels;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>A caller's thread, which may be a user interface's, goes on as soon as it has asked. Gates hold what must not run there until the call has returned.</summary>
public sealed class CallersThreadTests
{
    private static readonly TimeSpan s_limit = TimeSpan.FromMinutes(2);

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task WhileTheTemplateIsRendered_TheCallHasReturned()
    {
        await using var model = await TinyModel.LoadAsync();
        using var gate = new ManualResetEventSlim();
        var template = new HeldTemplate(new StandardTemplate(), gate);
        var client = new ErnieChatClient(model, model.Tokenizer!, template, new ContextWindow(model.ContextLength, ErnieContextOverflow.Refuse, null), TimeProvider.System);
        template.IsHeld = true;
        var schema = JsonDocument.Parse("""{"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}}, "required": ["name"]}""").RootElement;
        var options = new ChatOptions { Temperature = 0, MaxOutputTokens = 40, ResponseFormat = ChatResponseFormat.ForJsonSchema(schema) };
        using var caller = new Caller(client, options);
        // Tokens, grammar and engine come after the template, which waits for the gate: none of them can have run in the call.
        Assert.False(caller.First.IsCompleted);
        gate.Set();
        Assert.True(await caller.First);
        Assert.NotEqual(caller.ThreadId, template.ThreadId);
        JsonDocument.Parse(await caller.RestAsync()).Dispose();
        // Nor do they come back to it.
        Assert.Equal(0, caller.Posts);
    }

    [Fact]
    public async Task WhileTheEngineComputes_TheCallHasReturned()
    {
        using var gate = new ManualResetEventSlim();
        var threads = new HashSet<int>();
        await using var model = await TinyModel.LoadAsync(o => o.Kernels = new HookedKernels(KernelRegistry.Choose(), _ =>
        {
            lock (threads) threads.Add(Environment.CurrentManagedThreadId);
            Assert.True(gate.Wait(s_limit));
        }));
        using var caller = new Caller(model.AsChatClient(), new ChatOptions { Temperature = 0, MaxOutputTokens = 40 });
        Assert.False(caller.First.IsCompleted);
        gate.Set();
        Assert.True(await caller.First);
        Assert.NotEqual("", await caller.RestAsync());
        Assert.Equal(0, caller.Posts);
        Assert.DoesNotContain(caller.ThreadId, threads);
    }

    /// <summary>A thread with a context of its own that asks for a first update, and lives on so that no other thread gets its id.</summary>
    private sealed class Caller : SynchronizationContext, IDisposable
    {
        private readonly ManualResetEventSlim _asked = new();
        private readonly ManualResetEventSlim _done = new();
        private readonly IAsyncEnumerator<ChatResponseUpdate> _stream;
        private Task<bool>? _first;
        private int _posts;

        public Caller(IChatClient client, ChatOptions options)
        {
            _stream = client.GetStreamingResponseAsync("Who are you?", options, Token).GetAsyncEnumerator(Token);
            var thread = new Thread(() =>
            {
                SetSynchronizationContext(this);
                ThreadId = Environment.CurrentManagedThreadId;
                _first = _stream.MoveNextAsync().AsTask();
                _asked.Set();
                _done.Wait(s_limit);
            });
            thread.IsBackground = true;
            thread.Start();
            Assert.True(_asked.Wait(s_limit), "The call waits for what it has begun.");
        }

        public Task<bool> First => _first!;

        public int ThreadId { get; private set; }

        public int Posts => _posts;

        public async Task<string> RestAsync()
        {
            var text = _stream.Current.Text;
            while (await _stream.MoveNextAsync()) text += _stream.Current.Text;
            await _stream.DisposeAsync();
            return text;
        }

        public void Dispose() => _done.Set();

        public override void Post(SendOrPostCallback d, object? state)
        {
            Interlocked.Increment(ref _posts);
            ThreadPool.QueueUserWorkItem(_ => d(state));
        }
    }

    private sealed class HeldTemplate(ChatTemplate inner, ManualResetEventSlim gate) : ChatTemplate
    {
        public int ThreadId { get; private set; }

        public bool IsHeld { get; set; }

        public override bool IsThinking => inner.IsThinking;

        public override bool TakesTools => inner.TakesTools;

        public override PromptText Render(IReadOnlyList<TemplateMessage> messages, IReadOnlyList<JsonElement>? tools = null, bool addGenerationPrompt = true)
        {
            ThreadId = Environment.CurrentManagedThreadId;
            Assert.True(!IsHeld || gate.Wait(s_limit));
            return inner.Render(messages, tools, addGenerationPrompt);
        }
    }
}
