#:project ../../src/Ernie.Sdk
#:package Microsoft.Extensions.AI
#:package Microsoft.ML.OnnxRuntime
#:property PublishAot=false

// %% [markdown]
// # Tools
//
// A C# function as a tool: the model calls it, the client runs it, the model answers from its result. The tiny model has learnt this in the thinking format, `ErnieChatTemplate.Thinking`.

// %%
using System.ComponentModel;
using Ernie.Sdk;
using Microsoft.Extensions.AI;

// The tiny model is part of the repository, which is the folder of this notebook or one above it.
string Root(string folder) => Directory.Exists(Path.Combine(folder, "samples", "ernie-tiny-moe")) ? folder : Root(Path.GetDirectoryName(folder)!);
var root = Root(Directory.GetCurrentDirectory());
var checkpoint = Path.Combine(root, "samples", "ernie-tiny-moe");
var model = await ErnieModel.LoadAsync(checkpoint, new ErnieModelOptions { ChatTemplate = ErnieChatTemplate.Thinking });
Console.WriteLine(model.ModelId);

// %% [markdown]
// ## What a call looks like
//
// Without anybody who runs it, the answer is the call.

// %%
var weather = AIFunctionFactory.Create(
    ([Description("Name of the city.")] string location) =>
    {
        Console.WriteLine($"  (get_weather was called for {location})");
        return "sunny, 21 degrees";
    },
    "get_weather", "Get the weather of a city.");
var options = new ChatOptions { Temperature = 0, Tools = [weather] };

var called = await model.AsChatClient().GetResponseAsync("How is the weather in Oslo?", options);
foreach (var content in called.Messages.SelectMany(message => message.Contents))
{
    Console.WriteLine(content switch
    {
        TextReasoningContent reasoning => $"reasoning: {reasoning.Text.Trim()}",
        FunctionCallContent call => $"call: {call.Name}({string.Join(", ", call.Arguments!.Select(argument => $"{argument.Key}: {argument.Value}"))})",
        TextContent text => $"text: {text.Text}",
        _ => content.GetType().Name,
    });
}

// %% [markdown]
// ## Call, result, answer
//
// `UseFunctionInvocation` runs functions until the model answers without a call.

// %%
var client = model.AsChatClient().AsBuilder().UseFunctionInvocation().Build();
var response = await client.GetResponseAsync("How is the weather in Oslo?", options);
foreach (var message in response.Messages) Console.WriteLine($"{message.Role}: {string.Join(" | ", message.Contents.Select(content => content.GetType().Name))}");
Console.WriteLine(response.Text);

// %% [markdown]
// ## A call that has to come
//
// `ToolMode` is kept by a grammar: with `RequireSpecific` the answer is a call of this function, with arguments by its schema.

// %%
var required = await model.AsChatClient().GetResponseAsync("Madrid", new ChatOptions { Temperature = 0, MaxOutputTokens = 200, Tools = [weather], ToolMode = ChatToolMode.RequireSpecific("get_weather") });
foreach (var call in required.Messages.SelectMany(message => message.Contents).OfType<FunctionCallContent>()) Console.WriteLine($"{call.Name}({string.Join(", ", call.Arguments!.Select(argument => $"{argument.Key}: {argument.Value}"))})");

// %%
await model.DisposeAsync();
