#:project ../../src/Ernie.Sdk
#:package Microsoft.Extensions.AI
#:package Microsoft.ML.OnnxRuntime
#:property PublishAot=false

// %% [markdown]
// # Quantisation against quality
//
// The same checkpoint in several precisions: how large its weights are, and how far its predictions are from those of the weights as they were trained.

// %%
using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
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
// Contracts with a question and its answer, as the tiny model has learnt them.

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
var ids = texts.Select(text => tokenizer.EncodeToIds(text, allowSpecialTokens: false)).ToArray();
var lines = string.Join('\n', ids.Select(line => $"{{\"ids\": [{string.Join(',', line)}]}}"));

// %% [markdown]
// ## Two measures
//
// * **Perplexity**: e to the mean negative log-likelihood of a token, in nats. Numbers in these texts are drawn by chance, and a model that is less sure of what nobody can know may do better there: a coarse measure.
// * **Divergence** (Kullback-Leibler) of the predictions of each next token from those of bf16, in nats: 0 where they are the same, whatever the text.

// %%
// The log-probabilities of all tokens at each position. A NumPy file has its header's length at byte 8.
float[][] Predictions(string file, int tokens)
{
    var bytes = File.ReadAllBytes(file);
    var logits = MemoryMarshal.Cast<byte, float>(bytes.AsSpan(10 + BitConverter.ToUInt16(bytes, 8)));
    var width = logits.Length / tokens;
    var rows = new float[tokens][];
    for (var t = 0; t < tokens; t++)
    {
        rows[t] = logits.Slice(t * width, width).ToArray();
        var most = rows[t].Max();
        var sum = most + MathF.Log(rows[t].Sum(logit => MathF.Exp(logit - most)));
        for (var i = 0; i < width; i++) rows[t][i] -= sum;
    }
    return rows;
}

double Divergence(float[] from, float[] to) => from.Zip(to, (p, q) => Math.Exp(p) * (p - q)).Sum();

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
var results = new List<(string Name, double Megabytes, double Perplexity, double Divergence)>();
float[][][]? trained = null;
foreach (var (name, exportOptions) in formats)
{
    var exported = Path.Combine(folder, name);
    await ErnieExporter.ExportAsync(checkpoint, exported, exportOptions);
    var written = Path.Combine(folder, "logits");
    await Ernie(lines, "logits", exported, "--out", written);
    var predictions = ids.Select((line, i) => Predictions(Path.Combine(written, $"{i}.npy"), line.Count)).ToArray();
    Directory.Delete(written, recursive: true);
    trained ??= predictions;
    results.Add((name, new FileInfo(Path.Combine(exported, "model.weights")).Length / 1e6,
        Math.Exp(-ids.SelectMany((line, i) => line.Skip(1).Select((id, t) => predictions[i][t][id])).Average()),
        ids.SelectMany((line, i) => line.Select((_, t) => Divergence(trained[i][t], predictions[i][t]))).Average()));
    Console.WriteLine(FormattableString.Invariant($"{name,-14} {results[^1].Megabytes,6:F2} MB  perplexity {results[^1].Perplexity:F4}  divergence {results[^1].Divergence:F5}"));
}

// %% [markdown]
// ## Size against quality
//
// To the left is smaller, down is better.

// %%
var (widest, worst) = (results.Max(result => result.Megabytes), results.Max(result => result.Divergence));
double X(double megabytes) => 60 + 420 * megabytes / widest;
double Y(double divergence) => 225 - 190 * divergence / worst;
var points = results.Select(result => FormattableString.Invariant($"<circle cx=\"{X(result.Megabytes):F1}\" cy=\"{Y(result.Divergence):F1}\" r=\"5\" fill=\"#1f5fa8\"/><text x=\"{X(result.Megabytes) + 9:F1}\" y=\"{Y(result.Divergence) - 6:F1}\">{result.Name} ({result.Divergence:F4})</text>"));
display(HTML(FormattableString.Invariant($"""
    <svg xmlns="http://www.w3.org/2000/svg" width="640" height="275" font-family="sans-serif" font-size="13">
      <path d="M50 10 V240 H620" fill="none" stroke="#888"/>
      <text x="330" y="262" text-anchor="middle">MB of weights (0 to {widest:F1})</text>
      <text x="20" y="125" text-anchor="middle" transform="rotate(-90 20 125)">divergence from bf16, nats</text>
      {string.Concat(points)}
    </svg>
    """)));
foreach (var result in results) Console.WriteLine(FormattableString.Invariant($"{result.Name,-14} {100 * result.Megabytes / results[0].Megabytes:F0} % of the size of {results[0].Name}"));

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
