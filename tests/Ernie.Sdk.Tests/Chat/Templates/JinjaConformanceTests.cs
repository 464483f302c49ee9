using System.Text;
using System.Text.Json;
using Ernie.Sdk.Chat.Templates;
using Ernie.Sdk.Chat.Templates.Jinja;
using Ernie.Sdk.Tests.Tokenization;

namespace Ernie.Sdk.Tests.Chat.Templates;

/// <summary>The interpreter against results of Python's Jinja2 with the settings of chat templates.</summary>
public sealed class JinjaConformanceTests
{
    private static string Folder => Path.GetDirectoryName(SharedData.Path("chat", "jinja.jsonl"))!;

    [Fact]
    public void RecordedTemplates_RenderAsInPython()
    {
        var failures = new StringBuilder();
        var (rendered, refused) = (0, 0);
        foreach (var line in File.ReadLines(SharedData.Path("chat", "jinja.jsonl")))
        {
            var row = JsonDocument.Parse(line).RootElement;
            var name = row.GetProperty("name").GetString();
            var isError = row.TryGetProperty("error", out var error);
            try
            {
                var text = Render(row.GetProperty("source").GetString()!, row.GetProperty("context")).Text;
                if (isError) failures.AppendLine($"{name}: '{text}' instead of {error}");
                else if (text != row.GetProperty("expected").GetString()) failures.AppendLine($"{name}: '{text}' instead of '{row.GetProperty("expected").GetString()}'");
                else rendered++;
            }
            catch (JinjaException e)
            {
                Assert.True(e.Line > 0, name);
                if (!isError) failures.AppendLine($"{name}: {e.Message}");
                else if (error.GetString() == "TemplateError" && e.Message != row.GetProperty("message").GetString()) failures.AppendLine($"{name}: {e.Message}");
                else refused++;
            }
        }
        Assert.True(failures.Length == 0, failures.ToString());
        Assert.Equal(374, rendered + refused);
        Assert.True(refused > 50);
    }

    [Fact]
    public void RecordedConversations_RenderToTheirTextAndIds()
    {
        var (rendered, refused) = (0, 0);
        var templates = new Dictionary<string, string>();
        foreach (var line in File.ReadLines(SharedData.Path("chat", "render.jsonl")))
        {
            var row = JsonDocument.Parse(line).RootElement;
            var name = row.GetProperty("name").GetString();
            var file = row.GetProperty("template").GetString()!;
            if (!templates.TryGetValue(file, out var source)) templates[file] = source = File.ReadAllText(Path.Combine(Folder, "templates", file));
            var variables = Variables(row);
            if (row.TryGetProperty("error", out _))
            {
                Assert.Throws<JinjaException>(() => JinjaInterpreter.Render(JinjaParser.Parse(source, out _), variables));
                refused++;
                continue;
            }
            var prompt = JinjaInterpreter.Render(JinjaParser.Parse(source, out _), variables);
            Assert.True(row.GetProperty("expected").GetString() == prompt.Text, $"{name}: {prompt.Text}");
            rendered++;
            var ids = row.TryGetProperty("ids_content_as_text", out var asText) ? asText : row.GetProperty("ids");
            // The base vocabulary lacks the thinking models' tags, so their ids show the text only.
            if (file == "ernie-4.5.jinja") Assert.Equal(Golden.Ints(ids), Tokenizers.Real.Encode(prompt));
            else Assert.Equal(Golden.Ints(ids), Tokenizers.Real.EncodeToIds(prompt.Text, allowSpecialTokens: true));
        }
        Assert.Equal((98, 7), (rendered, refused));
    }

    private static PromptText Render(string source, JsonElement context)
    {
        var variables = context.EnumerateObject().ToDictionary(static p => p.Name, static p => PythonValue.FromJson(p.Value));
        return JinjaInterpreter.Render(JinjaParser.Parse(source, out _), variables);
    }

    private static Dictionary<string, object?> Variables(JsonElement row)
    {
        var variables = new Dictionary<string, object?> { ["tools"] = null, ["documents"] = null };
        foreach (var (name, token) in new[] { ("bos", "<s>"), ("eos", "</s>"), ("unk", "<unk>"), ("pad", "<unk>"), ("cls", "<|begin_of_sentence|>"), ("sep", "<|end_of_sentence|>"), ("mask", "<mask:1>") }) variables[name + "_token"] = (PromptText)token;
        foreach (var property in row.GetProperty("kwargs").EnumerateObject()) variables[property.Name] = PythonValue.FromJson(property.Value, isInput: false);
        if (row.TryGetProperty("tools", out var tools)) variables["tools"] = PythonValue.FromJson(tools);
        if (row.TryGetProperty("add_generation_prompt", out var flag)) variables["add_generation_prompt"] = flag.GetBoolean();
        variables["messages"] = PythonValue.FromJson(WithoutNulls(row.GetProperty("messages")));
        return variables;
    }

    /// <summary>Fields without a value are dropped before rendering, as transformers does.</summary>
    private static JsonElement WithoutNulls(JsonElement messages) => JsonSerializer.SerializeToElement(messages.EnumerateArray().Select(static message =>
        message.EnumerateObject().Where(static field => field.Value.ValueKind != JsonValueKind.Null).ToDictionary(static field => field.Name, static field => field.Value)).ToArray());
}
