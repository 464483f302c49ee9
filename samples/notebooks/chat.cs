#:project ../../src/Ernie.Sdk
#:package Microsoft.Extensions.AI
#:package Microsoft.ML.OnnxRuntime
#:property PublishAot=false

// %% [markdown]
// # Chat
//
// `IChatClient` of Microsoft.Extensions.AI: streaming, a document with follow-up questions, answers as JSON, and how sure the model is of each token. The tiny model knows little: ask whole questions.

// %%
using System.Text.Json;
using Ernie.Sdk;
using Microsoft.Extensions.AI;

// The tiny model is part of the repository, which is the folder of this notebook or one above it.
string Root(string folder) => Directory.Exists(Path.Combine(folder, "samples", "ernie-tiny-moe")) ? folder : Root(Path.GetDirectoryName(folder)!);
var root = Root(Directory.GetCurrentDirectory());
var checkpoint = Path.Combine(root, "samples", "ernie-tiny-moe");
var model = await ErnieModel.LoadAsync(checkpoint);
var client = model.AsChatClient();
Console.WriteLine(model.ModelId);

// %% [markdown]
// ## A stream

// %%
await foreach (var update in client.GetStreamingResponseAsync("What is the capital of Norway?")) Console.Write(update.Text);
Console.WriteLine();

// %% [markdown]
// ## A document, and questions about it
//
// The client keeps nothing between calls: the conversation is yours. What prompts have in common is computed once, if it is long enough to be kept: the prefix cache holds blocks of 128 tokens.

// %%
var document = """
    Contract
    Clause 3. The late fee is 4,812 yuan per day.
    Clause 9. The lease ends on 4 March 2027.
    Clause 17. Northwind shall deliver 340 pumps to Oslo.
    """;
var filler = string.Concat(Enumerable.Repeat("\nThe board met and took notes. Each page carries a stamp.", 10));
List<ChatMessage> conversation = [new(ChatRole.User, $"{document}{filler}\n\nWhat is the late fee in clause 3?")];
foreach (var next in new[] { "When does the lease in clause 9 end?", "How many pumps shall be delivered under clause 17?", null })
{
    var response = await client.GetResponseAsync(conversation, new ChatOptions { Temperature = 0 });
    Console.WriteLine($"{response.Text}  ({response.Usage!.InputTokenCount} tokens read, {response.Usage.CachedInputTokenCount} of them from the cache)");
    conversation.AddRange(response.Messages);
    if (next is not null) conversation.Add(new ChatMessage(ChatRole.User, next));
}

// %% [markdown]
// ## JSON by a schema
//
// A grammar takes out the tokens that no document goes on with, so that the answer is one whatever the model is.

// %%
var schema = JsonDocument.Parse("""
    {
      "type": "object",
      "properties": { "clause": { "const": 17 }, "company": { "type": "string", "maxLength": 40 }, "quantity": { "type": "integer" }, "goods": { "type": "string", "maxLength": 40 }, "place": { "type": "string", "maxLength": 40 } },
      "required": ["clause", "company", "quantity", "goods", "place"],
      "additionalProperties": false
    }
    """).RootElement;
var extract = await client.GetResponseAsync($"{document}\n\nExtract clause 17 as JSON.", new ChatOptions { Temperature = 0, MaxOutputTokens = 96, ResponseFormat = ChatResponseFormat.ForJsonSchema(schema) });
Console.WriteLine(extract.Text);

// %% [markdown]
// ## How sure it is
//
// The probability of each token of an answer. Hover over a bar for what else might have come.

// %%
var sure = await client.GetResponseAsync("What day comes after Monday?", new ChatOptions { Temperature = 0, AdditionalProperties = new() { ["logprobs"] = true, ["top_logprobs"] = 3 } });
var tokens = ((IEnumerable<ErnieTokenLogProbability>)sure.AdditionalProperties!["logprobs"]!).ToArray();
var bars = tokens.Select((token, i) => FormattableString.Invariant($"<rect x=\"120\" y=\"{22 * i}\" width=\"{300 * Math.Exp(token.LogProbability):F1}\" height=\"18\" fill=\"#1f5fa8\"><title>{System.Net.WebUtility.HtmlEncode(string.Join(", ", token.Top.Select(top => FormattableString.Invariant($"{top.Token.Trim()} {Math.Exp(top.LogProbability):P2}"))))}</title></rect>")
    + $"<text x=\"110\" y=\"{22 * i + 14}\" font-size=\"13\" text-anchor=\"end\">{System.Net.WebUtility.HtmlEncode(token.Token.Trim())}</text>");
display(HTML($"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"430\" height=\"{22 * tokens.Length}\" font-family=\"sans-serif\">{string.Concat(bars)}</svg>"));
Console.WriteLine(sure.Text);

// %%
await model.DisposeAsync();

// %% program
// What a notebook has of its own. Outside of one, a picture is a file.
static string HTML(string html) => html;

static void display(string html)
{
    var file = Path.Combine(Path.GetTempPath(), $"ernie-{Guid.NewGuid():N}.html");
    File.WriteAllText(file, html);
    Console.WriteLine($"(picture: {file})");
}
