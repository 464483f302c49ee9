using System.Text.Json;
using Ernie.Sdk.Tokenization;

namespace Ernie.Sdk.Chat.Templates;

/// <summary>Renders a conversation into the prompt its model was trained on. Immutable, safe for concurrent use.</summary>
internal abstract class ChatTemplate
{
    public const string SentenceBegin = "<|begin_of_sentence|>";
    public const string SentenceEnd = "<|end_of_sentence|>";
    public const string TurnBegin = "<|im_start|>";
    public const string TurnEnd = "<|im_end|>";

    public const string ReasoningBegin = "<think>";
    public const string CallBegin = "<tool_call>";

    /// <summary>What to do where a template lacks tools or reasoning.</summary>
    public const string ForTools = "For a model that was trained on reasoning and tools, set ErnieModelOptions.ChatTemplate to ErnieChatTemplate.Thinking.";

    private const string TemplateFile = "chat_template.jinja";

    // Published chat templates have a few kilobytes.
    private const long MaximumTemplateBytes = 4 << 20;

    /// <summary>Whether the model's answer has tags for reasoning, response and tool calls.</summary>
    public abstract bool IsThinking { get; }

    /// <summary>Whether the prompt has a place for tools, their calls and results.</summary>
    public abstract bool TakesTools { get; }

    /// <summary>Whether a system text within the conversation reaches the model. Templates that have one place for system texts, at the beginning, leave others out without a word, or refuse them. Renders to find out.</summary>
    public bool TakesLateSystem
    {
        get
        {
            const string Text = "probe";
            try { return Render([new TemplateMessage("user", "x"), new TemplateMessage("assistant", "x"), new TemplateMessage("system", Text)]).Text.Contains(Text, StringComparison.Ordinal); }
            catch (ArgumentException) { return false; }
        }
    }

    /// <param name="messages">The conversation.</param>
    /// <param name="tools">Tool objects as in the OpenAI format; ignored by the models that know no tools.</param>
    /// <param name="addGenerationPrompt">Whether the prompt ends with the begin of an answer. The thinking models' template always adds it.</param>
    /// <exception cref="ArgumentException">A message lacks what the template needs of it.</exception>
    public abstract PromptText Render(IReadOnlyList<TemplateMessage> messages, IReadOnlyList<JsonElement>? tools = null, bool addGenerationPrompt = true);

    /// <summary>The checkpoint's own template, interpreted; where it has none, a built-in one by the control tokens of its vocabulary.</summary>
    /// <remarks>
    /// No built-in template replaces a file: that two programs agree on samples does not say that they agree on every conversation, and the thinking models' built-in one is a reconstruction.
    /// </remarks>
    /// <exception cref="InvalidDataException">The template is damaged, or there is none and the vocabulary is not one of ERNIE 4.5.</exception>
    /// <exception cref="NotSupportedException">The template uses something of Jinja that this library does not run.</exception>
    public static ChatTemplate For(string folder, ErnieTokenizer tokenizer)
    {
        if (ReadSource(folder, out var file) is { } source) return JinjaTemplate.Parse(source, file, SpecialTokens(tokenizer));
        if (tokenizer.TokenToId(SentenceBegin) is not null) return Standard(tokenizer);
        if (tokenizer.TokenToId(TurnBegin) is not null) return new ThinkingTemplate();
        throw new InvalidDataException(
            $"{folder} has no chat template, and its vocabulary has neither {SentenceBegin} nor {TurnBegin}. Copy {TemplateFile} or {AddedTokens.ConfigFile} from the original checkpoint.");
    }

    /// <summary>Tokens that end an answer of any ERNIE 4.5 model; generation_config.json may name more.</summary>
    public static IReadOnlyList<int> StopTokenIds(ErnieTokenizer tokenizer)
    {
        var ids = new List<int>();
        foreach (var id in new[] { tokenizer.EosTokenId, tokenizer.TokenToId(TurnEnd), tokenizer.TokenToId(SentenceEnd) })
        {
            if (id is { } found && !ids.Contains(found)) ids.Add(found);
        }
        return ids;
    }

    /// <summary>Whether an answer to the prompt begins inside the reasoning.</summary>
    public static bool EndsInReasoning(in PromptText prompt)
    {
        var end = prompt.Text.AsSpan().TrimEnd('\n').Length;
        return prompt.Text.AsSpan(0, end).EndsWith(ReasoningBegin) && (prompt.InputRanges is not [.., var last] || last.End <= end - ReasoningBegin.Length);
    }

    private protected static string ContentOf(TemplateMessage message, int index) => message.Content ?? throw new ArgumentException(
        $"Message {index} of role '{message.Role}' has no text. The chat template needs a text, which may be empty.", nameof(message));

    /// <summary>The variables by which templates name the vocabulary's special tokens.</summary>
    private static Dictionary<string, string> SpecialTokens(ErnieTokenizer tokenizer)
    {
        var tokens = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var (name, id) in new[] { ("bos_token", tokenizer.BosTokenId), ("eos_token", tokenizer.EosTokenId), ("cls_token", tokenizer.ClsTokenId), ("sep_token", tokenizer.SepTokenId) })
        {
            if (id is { } found && tokenizer.IdToToken(found) is { } token) tokens[name] = token;
        }
        if (tokenizer.IdToToken(0) is "<unk>") tokens["unk_token"] = tokens["pad_token"] = "<unk>";
        return tokens;
    }

    private static StandardTemplate Standard(ErnieTokenizer tokenizer) => new(
        tokenizer.ClsTokenId is { } cls ? tokenizer.IdToToken(cls)! : SentenceBegin,
        tokenizer.SepTokenId is { } sep ? tokenizer.IdToToken(sep)! : SentenceEnd);

    /// <summary>The checkpoint's template: chat_template.jinja, else the entry in tokenizer_config.json.</summary>
    private static string? ReadSource(string folder, out string path)
    {
        var file = new FileInfo(Path.Combine(folder, TemplateFile));
        path = file.FullName;
        if (file.Exists)
        {
            if (file.Length > MaximumTemplateBytes) throw JsonFile.Invalid(file.FullName, $"it has {file.Length} bytes, more than the limit of {MaximumTemplateBytes}");
            return File.ReadAllText(file.FullName);
        }
        path = Path.Combine(folder, AddedTokens.ConfigFile);
        return JsonFile.TryReadObject(folder, AddedTokens.ConfigFile) is { } config && config.TryGetProperty("chat_template", out var entry) ? SourceOf(entry) : null;
    }

    private static string? SourceOf(JsonElement entry)
    {
        if (entry.ValueKind != JsonValueKind.Array) return JsonFile.AsText(entry);
        string? first = null;
        foreach (var named in entry.EnumerateArray())
        {
            if (named.ValueKind != JsonValueKind.Object || !named.TryGetProperty("template", out var template)) continue;
            if (named.TryGetProperty("name", out var name) && JsonFile.AsText(name) == "default") return JsonFile.AsText(template);
            first ??= JsonFile.AsText(template);
        }
        return first;
    }
}
