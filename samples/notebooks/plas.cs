#:project ../../src/Ernie.Sdk
#:package Microsoft.Extensions.AI
#:package Microsoft.ML.OnnxRuntime
#:property PublishAot=false

// %% [markdown]
// # Which blocks a long prompt reads
//
// Beyond a limit, attention reads only the blocks of 128 positions that each query chooses (PLAS). Which ones, how much of dense attention's softmax they hold, and what an answer makes of it.

// %%
using System.Diagnostics;
using Ernie.Sdk;
using Microsoft.Extensions.AI;

// The tiny model is part of the repository, which is the folder of this notebook or one above it.
string Root(string folder) => Directory.Exists(Path.Combine(folder, "samples", "ernie-tiny-moe")) ? folder : Root(Path.GetDirectoryName(folder)!);
var root = Root(Directory.GetCurrentDirectory());
var checkpoint = Path.Combine(root, "samples", "ernie-tiny-moe");
// Commands of `ernie` measure what the library does not tell. The first run builds them.
async Task<string> Ernie(string input, params string[] arguments)
{
    using var process = Process.Start(new ProcessStartInfo("dotnet", ["run", "-c", "Release", "--project", Path.Combine(root, "src", "Ernie.Cli"), "--", .. arguments]) { RedirectStandardInput = true, RedirectStandardOutput = true })!;
    await process.StandardInput.WriteLineAsync(input);
    process.StandardInput.Close();
    var output = await process.StandardOutput.ReadToEndAsync();
    await process.WaitForExitAsync();
    return process.ExitCode == 0 ? output : throw new InvalidOperationException($"ernie {arguments[0]} failed: {output}");
}

// %% [markdown]
// ## A long document
//
// 16 clauses among lines that say nothing, about 6,000 tokens.

// %%
var random = new Random(7);
string[] topics = ["late fee", "storage fee", "audit fee", "service fee", "repair fee", "licence fee", "transport fee", "cleaning fee", "training fee", "packing fee"];
string[] filler = ["The board met and took notes.", "Each page carries a stamp.", "All terms have their usual meaning.", "The team reviewed the plan twice.", "See the notes for details.", "A signed copy is stored in the office."];
var lines = Enumerable.Range(0, 420).Select(_ => $"{filler[random.Next(filler.Length)]} {filler[random.Next(filler.Length)]}").ToList();
foreach (var (i, topic) in topics.Index()) lines.Insert(random.Next(1, lines.Count), $"Clause {10 + 3 * i}. The {topic} is {random.Next(20, 999)} yuan per day.");
var document = string.Join('\n', lines.Prepend("Contract"));
var question = $"{document}\n\nWhat is the audit fee in clause 16?";
var tokenizer = ErnieTokenizer.Load(checkpoint);
var ids = tokenizer.EncodeToIds($"User: {question}\nAssistant: ", allowSpecialTokens: false);
Console.WriteLine($"{ids.Count} tokens, {(ids.Count + 127) / 128} blocks; {lines.Find(line => line.StartsWith("Clause 16.", StringComparison.Ordinal))}");

// %% [markdown]
// ## The map
//
// A row is a block of the prompt, a column a block that it may read, the colour the share of heads that read it. Queries choose 6 to 8 blocks here; the 128 queries of a block read the union of what each chose.

// %%
var picture = Path.Combine(Path.GetTempPath(), $"ernie-map-{Guid.NewGuid():N}.svg");
Console.Write(await Ernie($"{{\"ids\": [{string.Join(',', ids)}]}}", "plas-map", checkpoint, "--top-k-left", "6", "--top-k-right", "8", "--plot", picture));
display(HTML(File.ReadAllText(picture)[File.ReadAllText(picture).IndexOf("<svg", StringComparison.Ordinal)..]));
File.Delete(picture);

// %% [markdown]
// ## What the answer makes of it
//
// The same question, with fewer and fewer blocks for a query of the prompt and of the answer.

// %%
var model = await ErnieModel.LoadAsync(checkpoint);
var client = model.AsChatClient();
foreach (var (left, right) in new[] { (0, 0), (24, 32), (12, 16), (6, 8), (2, 3) })
{
    var attention = left == 0 ? ErnieSparseAttention.Dense : new ErnieSparseAttention { EncoderTopKLeft = left, EncoderTopKRight = right, DecoderTopKLeft = left, DecoderTopKRight = right };
    var options = new ChatOptions { Temperature = 0, MaxOutputTokens = 48, RawRepresentationFactory = _ => new ErnieGenerationOptions { SparseAttention = attention } };
    var answer = await client.GetResponseAsync(question, options);
    Console.WriteLine($"{(left == 0 ? "dense" : $"{left}/{right} blocks"),-13} {answer.Text}");
}

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
