using System.CommandLine;
using System.Text.Json;
using Ernie.Cli.Doctor;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie doctor</c>: what is installed, what is missing, and what to do about it.</summary>
internal static class DoctorCommand
{
    public static Command Create(CommandStreams streams)
    {
        var cache = CommonOptions.Cache();
        var json = new Option<bool>("--json") { Description = "Write JSON." };
        var command = new DocumentedCommand("doctor", "Says what is installed, what is missing, and how to fix it.",
            $"Returns 0 if a model can run on the CPU, otherwise 1. {GpuFindings.Note}", "ernie doctor", "ernie doctor --json") { cache, json };
        command.SetAction(result =>
        {
            Finding[] cpu = [.. CpuFindings.All(result.GetValue(cache))];
            Finding[] gpu = [.. GpuFindings.All()];
            var works = cpu.All(static f => f.State != FindingState.Broken);
            if (result.GetValue(json)) WriteJson(streams.Out, works, ("cpu", cpu), ("gpu", gpu));
            else
            {
                foreach (var finding in cpu) Write(streams.Out, finding);
                streams.Out.WriteLine();
                streams.Out.WriteLine($"GPU: {GpuFindings.Note}");
                foreach (var finding in gpu) Write(streams.Out, finding);
                streams.Out.WriteLine();
                streams.Out.WriteLine(works ? "Models can run on this machine's CPU." : $"Models cannot run: {string.Join(", ", cpu.Where(static f => f.State == FindingState.Broken).Select(static f => f.Name))}.");
            }
            return works ? ExitCode.Success : ExitCode.BadInput;
        });
        return command;
    }

    private static void Write(TextWriter output, Finding finding)
    {
        var mark = finding.State switch { FindingState.Fine => "ok", FindingState.Absent => "-", FindingState.Poor => "!", _ => "X" };
        output.WriteLine($"{mark,2}  {finding.Name,-20}  {finding.Text}");
        if (finding.Cure is not null) output.WriteLine($"{"",26}{finding.Cure}");
    }

    private static void WriteJson(TextWriter output, bool works, params (string Name, Finding[] Findings)[] groups)
    {
        using var buffer = new MemoryStream();
        using (var writer = new Utf8JsonWriter(buffer, new JsonWriterOptions { Indented = true }))
        {
            writer.WriteStartObject();
            writer.WriteBoolean("cpu_works", works);
            writer.WriteString("computes_on", "cpu");
            foreach (var (name, group) in groups)
            {
                writer.WriteStartArray(name);
                foreach (var finding in group)
                {
                    writer.WriteStartObject();
                    writer.WriteString("name", finding.Name);
                    writer.WriteString("state", finding.State switch { FindingState.Fine => "fine", FindingState.Absent => "absent", FindingState.Poor => "poor", _ => "broken" });
                    writer.WriteString("found", finding.Text);
                    if (finding.Cure is not null) writer.WriteString("cure", finding.Cure);
                    writer.WriteEndObject();
                }
                writer.WriteEndArray();
            }
            writer.WriteEndObject();
        }
        output.WriteLine(System.Text.Encoding.UTF8.GetString(buffer.ToArray()));
    }
}
