using System.Globalization;

namespace Samples.Documents;

/// <summary>A command line of options that have one value each.</summary>
internal sealed class Arguments
{
    private readonly Dictionary<string, string> _values = [];

    /// <summary>Path of the checkpoint or exported model, or null for the tiny one beside the program.</summary>
    public string? Model => this["--model"];

    /// <summary>How long the whole prompt may be, in tokens of the model.</summary>
    public int Tokens { get; private init; }

    /// <summary>Another number makes another document.</summary>
    public int Seed { get; private init; }

    public string? this[string option] => _values.GetValueOrDefault(option);

    /// <summary>Reads the command line, or says how it is used.</summary>
    public static bool TryParse(string[] args, string usage, string[] options, out Arguments arguments)
    {
        var read = new Arguments();
        for (var i = 0; i < args.Length; i += 2)
        {
            if (i + 1 == args.Length || !options.Contains(args[i]) || !read._values.TryAdd(args[i], args[i + 1]))
            {
                Console.Error.WriteLine(usage);
                arguments = read;
                return false;
            }
        }
        if (!read.TryNumber("--tokens", read.Model is null ? 2048 : 32_768, 512, 131_072, out var tokens) || !read.TryNumber("--seed", 1, 0, int.MaxValue, out var seed))
        {
            arguments = read;
            return false;
        }
        arguments = new Arguments { Tokens = tokens, Seed = seed };
        foreach (var (option, value) in read._values) arguments._values[option] = value;
        return true;
    }

    private bool TryNumber(string option, int otherwise, int least, int most, out int number)
    {
        number = otherwise;
        if (this[option] is not { } text) return true;
        if (int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out number) && number >= least && number <= most) return true;
        Console.Error.WriteLine($"{option} takes {least} to {most}; it was '{text}'.");
        return false;
    }
}
