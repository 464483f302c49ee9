using Ernie.Sdk;

namespace ConsoleChat;

/// <summary>The command line: <c>[--model PATH] [--prompt TEXT] [--device cpu|cuda|auto]</c>.</summary>
internal sealed record Arguments(string Model, string? Prompt, ErnieDevice Device)
{
    private static readonly string s_tinyModel = Path.Combine(AppContext.BaseDirectory, "ernie-tiny-moe");

    public static bool TryParse(string[] args, out Arguments arguments)
    {
        arguments = new Arguments(s_tinyModel, null, ErnieDevice.Cpu);
        for (var i = 0; i < args.Length; i += 2)
        {
            var value = i + 1 < args.Length ? args[i + 1] : null;
            if (args[i] == "--model" && value is not null) arguments = arguments with { Model = value };
            else if (args[i] == "--prompt" && value is not null) arguments = arguments with { Prompt = value };
            else if (args[i] == "--device" && Enum.TryParse<ErnieDevice>(value, ignoreCase: true, out var device) && Enum.IsDefined(device)) arguments = arguments with { Device = device };
            else
            {
                Console.Error.WriteLine(args[i] switch
                {
                    "--model" => "--model takes a path, and none follows.",
                    "--prompt" => "--prompt takes a text, and none follows.",
                    "--device" => $"--device takes cpu, cuda or auto, and not '{value}'.",
                    var other => $"There is no option '{other}'.",
                });
                Console.Error.WriteLine($"Usage: {AppDomain.CurrentDomain.FriendlyName} [--model PATH] [--prompt TEXT] [--device cpu|cuda|auto]");
                return false;
            }
        }
        return true;
    }
}
