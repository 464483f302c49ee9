using System.Runtime.CompilerServices;
using System.Text.RegularExpressions;
using Ernie.Sdk.Chat;
using Ernie.Sdk.Kernels;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>
/// A client whose model says what a test writes: the logits of a step are made to be those of the script's next token. All else is real: template, engine, cache, sampler, grammar, parser.
/// What the model says is a function of its prompt, as the template wrote it, so an answer shows what reached the model. One request at a time.
/// </summary>
internal sealed partial class ScriptedClient : DelegatingChatClient, IAsyncDisposable
{
    private readonly ErnieModel _model;
    private readonly ScriptedKernels _kernels;

    private ScriptedClient(ErnieModel model, ScriptedKernels kernels) : base(model.AsChatClient()) => (_model, _kernels) = (model, kernels);

    /// <summary>What the model says to a prompt; make it with <see cref="Say"/> or <see cref="Call"/>.</summary>
    public Func<string, string> Answer { get; set; } = static _ => throw new InvalidOperationException("The test has no script.");

    /// <summary>How often the model was asked.</summary>
    public int Requests { get; private set; }

    public static async Task<ScriptedClient> LoadAsync()
    {
        var kernels = new ScriptedKernels(KernelRegistry.Choose());
        var model = await TinyModel.LoadAsync(options => (options.ChatTemplate, options.Kernels) = (ErnieChatTemplate.Thinking, kernels));
        kernels.VocabularySize = model.VocabularySize;
        return new ScriptedClient(model, kernels);
    }

    public static string Say(string text) => $"I know.\n</think>\n\n<response>\n{text}\n</response>";

    /// <param name="calls">Names and arguments.</param>
    public static string Call(params (string Name, string Arguments)[] calls) =>
        "I look it up.\n</think>\n" + string.Concat(calls.Select(static call => $"\n<tool_call>\n{{\"name\": \"{call.Name}\", \"arguments\": {call.Arguments}}}\n</tool_call>\n"));

    /// <summary>The newest result of a tool in a prompt; null without one.</summary>
    public static string? ResultIn(string prompt) => Results().Matches(prompt) is { Count: > 0 } results ? results[^1].Groups[1].Value : null;

    public override async Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default)
    {
        IReadOnlyList<ChatMessage> conversation = [.. messages];
        Begin(conversation, options);
        var response = await base.GetResponseAsync(conversation, options, cancellationToken);
        _kernels.AssertIsSaid();
        return response;
    }

    public override async IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        IReadOnlyList<ChatMessage> conversation = [.. messages];
        Begin(conversation, options);
        await foreach (var update in base.GetStreamingResponseAsync(conversation, options, cancellationToken)) yield return update;
        _kernels.AssertIsSaid();
    }

    public ValueTask DisposeAsync() => _model.DisposeAsync();

    private void Begin(IReadOnlyList<ChatMessage> messages, ChatOptions? options)
    {
        Requests++;
        var client = (ErnieChatClient)InnerClient;
        var prompt = _model.Tokenizer!.Decode(client.Encode(client.Request(messages, options)), skipSpecialTokens: false);
        _kernels.Begin([.. _model.Tokenizer.EncodeToIds(Answer(prompt), allowSpecialTokens: true), _model.StopTokenIds.First()]);
    }

    [GeneratedRegex("<tool_response>\n(.*?)\n</tool_response>", RegexOptions.Singleline)]
    private static partial Regex Results();

    private sealed unsafe class ScriptedKernels(CpuKernels inner) : CpuKernels
    {
        private int[] _script = [];
        private int _next;

        public override string Name => inner.Name;
        public override bool IsSupported => inner.IsSupported;
        public int VocabularySize { get; set; }

        public void Begin(int[] script) => (_script, _next) = (script, 0);

        /// <summary>A grammar that takes out a token of the script makes the sampler choose another one, and the answer another answer.</summary>
        public void AssertIsSaid() => Assert.Equal(_script.Length, _next);

        public override void AddRmsNorm(in AddRmsNormArguments arguments, in KernelContext context) => inner.AddRmsNorm(arguments, context);

        public override void Linear(in LinearArguments arguments, in KernelContext context)
        {
            inner.Linear(arguments, context);
            if (arguments.Weight.Rows != VocabularySize || arguments.TokenCount == 0) return;
            if (arguments.TokenCount > 1) throw new InvalidOperationException("A script is for one request at a time.");
            var logits = new Span<float>(arguments.Output, VocabularySize);
            logits.Clear();
            logits[_script[_next++]] = 100;
        }

        public override void Attention(in AttentionArguments arguments, in KernelContext context) => inner.Attention(arguments, context);

        public override void Experts(in ExpertsArguments arguments, in KernelContext context) => inner.Experts(arguments, context);
    }
}
