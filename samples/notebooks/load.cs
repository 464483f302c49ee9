#:project ../../src/Ernie.Sdk
#:package Microsoft.Extensions.AI
#:package Microsoft.ML.OnnxRuntime
#:property PublishAot=false

// %% [markdown]
// # Load a model
//
// A checkpoint is exported to ONNX once and mapped into memory from then on. Then the model answers token by token, and tells which of its experts did the work.

// %%
using Ernie.Sdk;

// The tiny model is part of the repository, which is the folder of this notebook or one above it.
string Root(string folder) => Directory.Exists(Path.Combine(folder, "samples", "ernie-tiny-moe")) ? folder : Root(Path.GetDirectoryName(folder)!);
var root = Root(Directory.GetCurrentDirectory());
var checkpoint = Path.Combine(root, "samples", "ernie-tiny-moe");
foreach (var file in Directory.GetFiles(checkpoint).Order()) Console.WriteLine($"{new FileInfo(file).Length,12:N0}  {Path.GetFileName(file)}");

// %% [markdown]
// ## Export
//
// Without options matrices become int4, fitted to a calibration text. `LoadAsync` of a checkpoint does the same, into a cache folder; here it is done by hand, to see what comes of it.

// %%
var exported = Path.Combine(Directory.CreateTempSubdirectory("ernie-notebook-").FullName, "tiny");
await ErnieExporter.ExportAsync(checkpoint, exported);
foreach (var file in Directory.GetFiles(exported).Order()) Console.WriteLine($"{new FileInfo(file).Length,12:N0}  {Path.GetFileName(file)}");

// %% [markdown]
// ## What it will take
//
// Weights are pages of the mapped file; keys and values grow with the conversation.

// %%
foreach (var tokens in new[] { 4_096, 32_768, 131_072 })
{
    var memory = ErnieModel.EstimateMemory(exported, tokens);
    Console.WriteLine($"{tokens,9:N0} tokens: {memory.WeightBytes / 1e6,5:F1} MB weights, {memory.KvCacheBytes / 1e6,6:F1} MB keys and values, {memory.WorkspaceBytes / 1e6,6:F1} MB workspace");
}

// %% [markdown]
// ## Load and generate

// %%
var model = await ErnieModel.LoadAsync(exported);
Console.WriteLine($"{model.ModelId}: {model.ContextLength:N0} tokens of context, vocabulary of {model.VocabularySize:N0}");

var prompt = model.Tokenizer!.EncodeToIds("User: What is the capital of Norway?\nAssistant: ", allowSpecialTokens: false);
Console.WriteLine($"{prompt.Count} tokens: {string.Join(' ', prompt)}");
await foreach (var id in model.GenerateAsync(prompt, new ErnieGenerationOptions { Temperature = 0, MaxTokens = 32 })) Console.Write($"{model.Tokenizer.Decode([id])}|");
Console.WriteLine();

// %% [markdown]
// ## Which experts did it
//
// A row is a layer, a column an expert; the darker, the more tokens the router has sent there.

// %%
var load = model.GetExpertLoad();
var most = load.Layers.Max(layer => layer.ExpertShares.Max());
var cells = load.Layers.Select((layer, row) => string.Concat(layer.ExpertShares.Select((share, expert) =>
    FormattableString.Invariant($"<rect x=\"{70 + 40 * expert}\" y=\"{30 * row}\" width=\"38\" height=\"28\" fill=\"#1f5fa8\" fill-opacity=\"{share / most:F2}\"><title>expert {expert}: {share:P1}</title></rect>")))
    + $"<text x=\"0\" y=\"{30 * row + 19}\" font-size=\"13\">layer {layer.Layer}</text>");
display(HTML($"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{70 + 40 * load.ExpertCount}\" height=\"{30 * load.Layers.Count}\" font-family=\"sans-serif\">{string.Concat(cells)}</svg>"));
foreach (var layer in load.Layers) Console.WriteLine($"layer {layer.Layer}: {layer.TokenCount} tokens, the busiest expert has {layer.Imbalance:F2} times its share");

// %%
await model.DisposeAsync();
Directory.Delete(Path.GetDirectoryName(exported)!, recursive: true);

// %% program
// What a notebook has of its own. Outside of one, a picture is a file.
static string HTML(string html) => html;

static void display(string html)
{
    var file = Path.Combine(Path.GetTempPath(), $"ernie-{Guid.NewGuid():N}.html");
    File.WriteAllText(file, html);
    Console.WriteLine($"(picture: {file})");
}
