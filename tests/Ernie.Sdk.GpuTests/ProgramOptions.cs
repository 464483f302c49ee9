namespace Ernie.Sdk.GpuTests;

/// <summary>The command line.</summary>
internal sealed record ProgramOptions
{
    public const string Usage = """
        Checks and measures Ernie.Sdk on this machine's first NVIDIA GPU. Each piece runs in a process of its own and ends within 8 minutes.

          --list               Names the pieces and ends.
          --stage STAGE        Only pieces of kernels, model or bench; may be repeated. [default: all]
          --only NAME          Only this piece; may be repeated.
          --json FILE          Where the report goes as JSON; what it says of other pieces on this machine stays. [default: gpu-tests.json]
          --tiny               Small sizes, as an emulated GPU can compute them.
          --limit SECONDS      Time for each piece. [default: 460]
          --minutes N          Time for all pieces together, the most important first; those that no time is left for are said to be skipped.
          --work FOLDER        Where models are exported to and kept. [default: gpu-tests-work]
          --shared FOLDER      model: where golden data is. [default: shared/data beside the repository, if it is found]
          --layers N           bench: layers of the 21B shape. [default: all 28]
          --python FILE        bench: an interpreter that has PyTorch. [default: python3]
          --in-process         Runs the pieces in this process: for a debugger.

        Returns 0 if every check passed, 1 if something failed, ran out of time or is missing, 2 for wrong usage.
        """;

    public bool List { get; init; }
    public IReadOnlyList<string> Stages { get; init; } = [];
    public IReadOnlyList<string> Only { get; init; } = [];
    public string Json { get; init; } = "gpu-tests.json";
    public bool Tiny { get; init; }
    public int LimitSeconds { get; init; } = Piece.LimitSeconds;
    public int? Minutes { get; init; }
    public string Work { get; init; } = "gpu-tests-work";
    public int? Layers { get; init; }
    public string? Shared { get; init; }
    public string Python { get; init; } = "python3";
    public bool InProcess { get; init; }

    /// <exception cref="FormatException">What is wrong with them.</exception>
    public static ProgramOptions Parse(IReadOnlyList<string> arguments)
    {
        var options = new ProgramOptions();
        for (var i = 0; i < arguments.Count; i++)
        {
            var name = arguments[i];
            string Value() => ++i < arguments.Count ? arguments[i] : throw new FormatException($"{name} needs a value.");
            int Number() => int.TryParse(Value(), out var number) && number > 0 ? number : throw new FormatException($"{name} needs a number above 0.");
            options = name switch
            {
                "--list" => options with { List = true },
                "--stage" => options with { Stages = [.. options.Stages, Value()] },
                "--only" => options with { Only = [.. options.Only, Value()] },
                "--json" => options with { Json = Value() },
                "--tiny" => options with { Tiny = true },
                "--limit" => options with { LimitSeconds = Number() },
                "--minutes" => options with { Minutes = Number() },
                "--work" => options with { Work = Value() },
                "--shared" => options with { Shared = Value() },
                "--layers" => options with { Layers = Number() },
                "--python" => options with { Python = Value() },
                "--in-process" => options with { InProcess = true },
                _ => throw new FormatException($"There is no option {name}."),
            };
        }
        return options;
    }

    /// <summary>Those of a process that runs one piece.</summary>
    public IEnumerable<string> ForChild(string piece, string json)
    {
        string[] arguments = ["--in-process", "--only", piece, "--json", json, "--work", Work, "--limit", $"{LimitSeconds}", "--python", Python];
        var all = new List<string>(arguments);
        if (Tiny) all.Add("--tiny");
        if (Layers is { } layers) all.AddRange(["--layers", $"{layers}"]);
        if (Shared is not null) all.AddRange(["--shared", Shared]);
        return all;
    }
}
