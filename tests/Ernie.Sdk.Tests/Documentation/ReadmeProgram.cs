namespace Ernie.Sdk.Tests.Documentation;

/// <summary>A program of the README, compiled by the SDK's own compiler beside the tests, whose references and runtime it shares.</summary>
internal sealed class ReadmeProgram : IDisposable
{
    private static readonly string[] s_consoleUsings = ["System", "System.Collections.Generic", "System.IO", "System.Linq", "System.Net.Http", "System.Threading", "System.Threading.Tasks"];
    private static readonly string[] s_webUsings =
    [
        .. s_consoleUsings, "System.Net.Http.Json", "Microsoft.AspNetCore.Builder", "Microsoft.AspNetCore.Hosting", "Microsoft.AspNetCore.Http", "Microsoft.AspNetCore.Routing", "Microsoft.Extensions.Configuration",
        "Microsoft.Extensions.DependencyInjection", "Microsoft.Extensions.Hosting", "Microsoft.Extensions.Logging",
    ];

    private ReadmeProgram(string name) => Name = name;

    /// <summary>File name of the assembly.</summary>
    public string Name { get; }

    public static string PathOf(string file) => Path.Combine(AppContext.BaseDirectory, file);

    public static async Task<ReadmeProgram> CompileAsync(string source, int number, bool isWeb)
    {
        var program = new ReadmeProgram($"readme-{number}.dll");
        using var folder = new TemporaryFolder();
        await File.WriteAllTextAsync(folder.File("Program.cs"), source);
        await File.WriteAllLinesAsync(folder.File("Usings.cs"), (isWeb ? s_webUsings : s_consoleUsings).Select(static name => $"global using {name};"));
        var references = ((string)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES")!).Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries);
        await File.WriteAllLinesAsync(folder.File("arguments"),
            ["-noconfig", "-nostdlib", "-nullable:enable", "-warnaserror", $"-out:\"{PathOf(program.Name)}\"", .. references.Select(static path => $"-r:\"{path}\""), $"\"{folder.File("Program.cs")}\"", $"\"{folder.File("Usings.cs")}\""]);
        var result = await ChildProcess.RunAsync("dotnet", ["exec", Compiler(), $"@{folder.File("arguments")}"], limit: TimeSpan.FromMinutes(5));
        Assert.True(result.ExitCode == 0, $"{source}\n{result.Output}{result.Error}");
        foreach (var end in new[] { ".runtimeconfig.json", ".deps.json" }) File.Copy(PathOf($"Ernie.Sdk.Tests{end}"), PathOf(Path.ChangeExtension(program.Name, null) + end), overwrite: true);
        return program;
    }

    public void Dispose()
    {
        foreach (var end in new[] { ".dll", ".runtimeconfig.json", ".deps.json" }) File.Delete(PathOf(Path.ChangeExtension(Name, null) + end));
    }

    private static string Compiler()
    {
        var root = Path.GetFullPath(Path.Combine(Path.GetDirectoryName(typeof(object).Assembly.Location)!, "..", "..", ".."));
        var compiler = Directory.Exists(Path.Combine(root, "sdk"))
            ? Directory.GetDirectories(Path.Combine(root, "sdk"), "10.*").Select(static sdk => Path.Combine(sdk, "Roslyn", "bincore", "csc.dll")).Where(File.Exists).Order(StringComparer.Ordinal).LastOrDefault() : null;
        Assert.SkipWhen(compiler is null, $"There is no .NET 10 SDK beside the runtime in {root}; its compiler builds the README's programs.");
        return compiler!;
    }
}
