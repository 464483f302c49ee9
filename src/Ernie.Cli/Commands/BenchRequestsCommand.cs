using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Ernie.Cli.Measuring;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie bench-requests</c>: what users notice of one another.</summary>
internal static class BenchRequestsCommand
{
    public static Command Create(CommandStreams streams)
    {
        var answers = new Option<int>("--streams") { Description = "Answers that are written at once.", DefaultValueFactory = static _ => 4, HelpName = "N" }.InRange(1, 4096);
        var tokens = new Option<int>("--tokens") { Description = "Tokens of each answer.", DefaultValueFactory = static _ => 48, HelpName = "N" }.InRange(8, 1 << 20);
        var prompt = new Option<int>("--prompt") { Description = "Tokens of the prompt that comes in meanwhile.", DefaultValueFactory = static _ => 8192, HelpName = "N" }.InRange(2, 1 << 20);
        var cancels = new Option<int>("--cancels") { Description = "Requests that are cancelled at a random moment.", DefaultValueFactory = static _ => 100, HelpName = "N" }.InRange(0, 1 << 20);
        var json = new Option<string?>("--json") { Description = "Also write everything to this file.", HelpName = "FILE" };
        var command = new DocumentedCommand("bench-requests",
            "Measures gaps between tokens, and cancels.",
            "Times the gaps between two tokens of an answer while several are written, the same while a long prompt comes in, and how long a cancelled request holds its memory. Prompts are random ids.",
            "ernie bench-requests model", "ernie bench-requests model --streams 16 --prompt 2048 --cancels 1000 --json requests.json");
        var model = ModelOptions.AddTo(command, null, defaultKv: "bf16", first: [answers, tokens, prompt, cancels, json]);
        command.SetAction(async (result, cancellationToken) =>
        {
            if (result.GetValue(json) is { } wanted) WholeFile.Check(wanted);
            RequestBenchmarkResult measured;
            MeteredKernels? meter = null;
            using (var progress = new ProgressLine(streams, "bench"))
            {
                await using var loaded = await model.LoadAsync(result, streams, result.GetValue(answers) + 1, cancellationToken, wrap: kernels => meter = new MeteredKernels(kernels)).ConfigureAwait(false);
                var plan = new RequestBenchmarkPlan
                {
                    Streams = result.GetValue(answers), Tokens = result.GetValue(tokens), Cancels = result.GetValue(cancels), PromptTokens = Math.Min(result.GetValue(prompt), loaded.ContextLength - 1),
                };
                measured = await new RequestBenchmark(plan, loaded, meter!, text => progress.Show(null, () => text)).RunAsync(cancellationToken).ConfigureAwait(false);
            }
            meter?.Dispose();
            await streams.Out.WriteAsync(Table(measured)).ConfigureAwait(false);
            if (result.GetValue(json) is { } file) WholeFile.Write(file, [.. JsonSerializer.SerializeToUtf8Bytes(measured, BenchCommand.Json), (byte)'\n']);
            return ExitCode.Success;
        });
        return command;
    }

    private static string Table(RequestBenchmarkResult r)
    {
        var text = new StringWriter(CultureInfo.InvariantCulture) { NewLine = "\n" };
        text.WriteLine($"model    {r.Model}");
        text.WriteLine($"runs on  {r.Machine.Processor}, kernels {r.Kernels}, .NET {r.Machine.DotNet}, ONNX Runtime {r.Machine.OnnxRuntime}");
        text.WriteLine();
        text.WriteLine($"{"ms",-44} {"median",9} {"99 %",9} {"longest",9} {"number",8}");
        Line($"between tokens, {r.Streams} answers", r.Alone);
        Line($"the same beside a prompt of {r.PromptTokens} tokens", r.Beside);
        Line("from a cancel to the freed memory", r.Cancels);
        text.WriteLine();
        text.WriteLine($"{100 * r.OutsideKernels:F1} % of a decode step was spent outside the kernels; {r.Preemptions} requests gave their memory to others");
        return text.ToString();

        void Line(string what, Distribution d) => text.WriteLine($"{what,-44} {d.P50,9:F1} {d.P99,9:F1} {d.Longest,9:F1} {d.Count,8}");
    }
}
