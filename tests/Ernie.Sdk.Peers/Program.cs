using System.CommandLine;
using Ernie.Cli;
using Ernie.Sdk.Peers;

var model = new Option<string>("--model") { Description = "Our export.", Required = true, HelpName = "DIR" };
var gguf = new Option<string>("--gguf") { Description = "The same shape or the same weights as GGUF.", Required = true, HelpName = "FILE" };
var threads = new Option<int>("--threads") { Description = "Threads of both.", DefaultValueFactory = static _ => Environment.ProcessorCount }.InRange(1, 1024);
var tokens = new Option<int>("--tokens") { Description = "Decode steps of a repetition.", DefaultValueFactory = static _ => 64 }.InRange(1, 1 << 16);
var depth = new Option<int>("--depth") { Description = "Tokens before them.", DefaultValueFactory = static _ => 16 }.InRange(1, 1 << 17);
var prefill = CommonOptions.Numbers("--prefill", "Lengths of prompts, with commas between.", "128,512,2048", 1 << 17);
var rounds = new Option<int>("--runs") { Description = "How often each engine is loaded, measured and dropped, in turn.", DefaultValueFactory = static _ => 3 }.InRange(1, 1000);
var repeat = new Option<int>("--repeat") { Description = "Repetitions of every figure between load and drop.", DefaultValueFactory = static _ => 3 }.InRange(1, 1000);
var json = new Option<string?>("--json") { Description = "Also write everything to this file.", HelpName = "FILE" };
var command = new RootCommand("Times Ernie.Sdk and llama.cpp in turn: one is dropped before the other is loaded, and the machine is probed around each figure. Medians of all repetitions.");
foreach (var option in new Option[] { model, gguf, threads, tokens, depth, prefill, rounds, repeat, json }) command.Add(option);
command.SetAction((result, _) => Comparison.RunAsync(new ComparisonPlan
{
    Model = result.GetValue(model)!,
    Gguf = result.GetValue(gguf)!,
    Threads = result.GetValue(threads),
    Tokens = result.GetValue(tokens),
    Depth = result.GetValue(depth),
    Prompts = CommonOptions.NumbersOf(result.GetValue(prefill)!),
    Rounds = result.GetValue(rounds),
    Repetitions = result.GetValue(repeat),
    Json = result.GetValue(json),
}));
return await command.Parse(args).InvokeAsync();
