using System.Globalization;
using Ernie.Sdk.Fuzz;

// Ernie.Sdk.Fuzz [--iterations N] [--seed S] [--reader NAME]
//   N inputs for each reader (200,000 unless told otherwise), reproducible by seed. Exit code 1 if a reader failed.
var iterations = 200_000;
var seed = 1;
string? only = null;
for (var i = 0; i + 1 < args.Length; i += 2)
{
    switch (args[i])
    {
        case "--iterations": iterations = int.Parse(args[i + 1], CultureInfo.InvariantCulture); break;
        case "--seed": seed = int.Parse(args[i + 1], CultureInfo.InvariantCulture); break;
        case "--reader": only = args[i + 1]; break;
        default: throw new ArgumentException($"Unknown option {args[i]}.");
    }
}

var failed = false;
long total = 0;
foreach (var reader in FuzzReaders.All.Where(reader => only is null || reader.Name == only))
{
    var result = FuzzRun.Run(reader, iterations, seed);
    Console.WriteLine(result);
    failed |= result.Failures.Count > 0;
    total += result.Inputs;
}
Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{total:N0} inputs, {(failed ? "FAILED" : "no failures")}"));
return failed ? 1 : 0;
