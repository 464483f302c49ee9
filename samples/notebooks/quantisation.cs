#:project ../../src/Ernie.Sdk
#:package Microsoft.Extensions.AI
#:package Microsoft.ML.OnnxRuntime
#:property PublishAot=false

// %% [markdown]
// # Quantisation against quality
//
// The same checkpoint in several precisions: how many bytes are read for each token, and how well the next token is predicted. Perplexity is e to the mean negative log-likelihood of a token in nats; less is better.

// %%
using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Ernie.Sdk;

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
var folder = Directory.CreateTempSubdirectory("ernie-notebook-").FullName;

// %% [markdown]
// ## A text to predict
//
// Contracts with a question and its answer, as the tiny model has learnt them. Names and numbers in them are drawn, so a part of each text is unpredictable to any model; the answers are not.

// %%
var random = new Random(1);
string[] fees = ["late fee", "storage fee", "audit fee", "service fee", "repair fee", "licence fee"];
string[] units = ["yuan", "dollars", "euros", "pounds"];
string[] periods = ["day", "week", "month", "year"];
var texts = Enumerable.Range(0, 40).Select(_ =>
{
    random.Shuffle(fees);
    var clauses = fees.Select((fee, i) => (Number: 10 * i + random.Next(10), Fee: fee, Value: $"{random.Next(20, 9999).ToString("N0", CultureInfo.InvariantCulture)} {units[random.Next(4)]} per {periods[random.Next(4)]}")).ToArray();
    var (number, asked, value) = clauses[random.Next(clauses.Length)];
    return $"User: Contract\n{string.Join('\n', clauses.Select(clause => $"Clause {clause.Number}. The {clause.Fee} is {clause.Value}."))}\n\nWhat is the {asked} in clause {number}?\nAssistant: The {asked} in clause {number} is {value}.";
}).ToArray();
Console.WriteLine(texts[0]);
var tokenizer = ErnieTokenizer.Load(checkpoint);
var lines = string.Join('\n', texts.Select(text => $"{{\"ids\": [{string.Join(',', tokenizer.EncodeToIds(text, allowSpecialTokens: false))}]}}"));

// %% [markdown]
// ## Export and measure
//
// `int4` is what an export does without options. Fitting rounds each weight in view of what a calibration text makes of the matrix' inputs. `int2` is for experts; the other matrices stay int4.

// %%
(string Name, ErnieExportOptions Options)[] formats =
[
    ("bf16", new() { Experts = ErniePrecision.BFloat16, Dense = ErniePrecision.BFloat16 }),
    ("int8", new() { Experts = ErniePrecision.Int8, Dense = ErniePrecision.Int8 }),
    ("int4, fitted", new()),
    ("int4, rounded", new() { Calibrate = false }),
    ("int2 experts", new() { Experts = ErniePrecision.Int2, Dense = ErniePrecision.Int4 }),
];
var results = new List<(string Name, double Megabytes, double Perplexity, double Top1)>();
foreach (var (name, exportOptions) in formats)
{
    var exported = Path.Combine(folder, name);
    await ErnieExporter.ExportAsync(checkpoint, exported, exportOptions);
    var total = JsonDocument.Parse((await Ernie(lines, "perplexity", exported)).TrimEnd().Split('\n')[^1]).RootElement;
    results.Add((name, new FileInfo(Path.Combine(exported, "model.weights")).Length / 1e6, Math.Exp(total.GetProperty("nll").GetDouble()), total.GetProperty("top1").GetDouble()));
    Console.WriteLine(FormattableString.Invariant($"{name,-14} {results[^1].Megabytes,6:F2} MB  perplexity {results[^1].Perplexity:F4}  most likely token right {results[^1].Top1:P2}"));
}

// %% [markdown]
// ## Size against perplexity
//
// To the left is smaller, down is better.

// %%
var (low, high) = (results.Min(result => result.Perplexity), results.Max(result => result.Perplexity));
var widest = results.Max(result => result.Megabytes);
double X(double megabytes) => 60 + 420 * megabytes / widest;
double Y(double perplexity) => 220 - 190 * (perplexity - low) / (high - low);
var points = results.Select((result, i) => FormattableString.Invariant($"<circle cx=\"{X(result.Megabytes):F1}\" cy=\"{Y(result.Perplexity):F1}\" r=\"5\" fill=\"#1f5fa8\"/><text x=\"{X(result.Megabytes) + 9:F1}\" y=\"{Y(result.Perplexity) + (i % 2 == 0 ? -4 : 14):F1}\">{result.Name} ({result.Perplexity:F3})</text>"));
display(HTML(FormattableString.Invariant($"""
    <svg xmlns="http://www.w3.org/2000/svg" width="640" height="275" font-family="sans-serif" font-size="13">
      <path d="M50 10 V240 H620" fill="none" stroke="#888"/>
      <text x="330" y="262" text-anchor="middle">MB of weights (0 to {widest:F1})</text>
      <text x="20" y="125" text-anchor="middle" transform="rotate(-90 20 125)">perplexity</text>
      {string.Concat(points)}
    </svg>
    """)));
foreach (var result in results) Console.WriteLine(FormattableString.Invariant($"{result.Name,-14} {100 * (result.Perplexity / results[0].Perplexity - 1),6:F2} % above {results[0].Name}, {100 * result.Megabytes / results[0].Megabytes:F0} % of its size"));

// %%
Directory.Delete(folder, recursive: true);

// %% program
// What a notebook has of its own. Outside of one, a picture is a file.
static string HTML(string html) => html;

static void display(string html)
{
    var file = Path.Combine(Path.GetTempPath(), $"ernie-{Guid.NewGuid():N}.html");
    File.WriteAllText(file, html);
    Console.WriteLine($"(picture: {file})");
}
