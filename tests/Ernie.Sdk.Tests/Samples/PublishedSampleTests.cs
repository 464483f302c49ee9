using System.IO.Compression;

namespace Ernie.Sdk.Tests.Samples;

/// <summary>
/// The console samples as other machines get them: on the GPU flavour of ONNX Runtime, and compiled ahead of time. Both build for minutes and restore hundreds of megabytes, so they run where
/// CI=true or ERNIE_FULL=1 says so.
/// </summary>
public sealed class PublishedSampleTests(ITestOutputHelper output)
{
    private static readonly TimeSpan s_limit = TimeSpan.FromMinutes(10);
    private static readonly string[] s_sharedLibraries = [".so", ".dylib", ".dll"];

    [Theory]
    [InlineData("ConsoleChat", "-p:OnnxRuntimePackage=Microsoft.ML.OnnxRuntime.Gpu")]
    [InlineData("GpuChat")]
    public async Task GpuFlavour_BuildsAndChatsWithoutAGpu(string sample, params string[] property)
    {
        using var copy = CopyOfTheSources();
        await DotnetAsync(copy, ["build", $"samples/{sample}", "-c", "Release", .. property]);
        var binaries = Path.Combine(copy.Path, "samples", sample, "bin", "Release", "net10.0");
        Assert.NotEmpty(Directory.GetFiles(binaries, "*onnxruntime_providers_cuda*", SearchOption.AllDirectories));
        await AssertAnswersAsync("dotnet", [Path.Combine(binaries, $"{sample}.dll")], copy);
    }

    [Fact]
    public async Task NativeAot_PublishesWithoutWarningsAndChats()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() || OperatingSystem.IsMacOS(), "The linker's name is only known here for Unix.");
        Assert.SkipUnless(new[] { "clang", "gcc" }.Any(OnPath), "NativeAOT needs a C linker: install clang or gcc.");
        using var copy = CopyOfTheSources();
        string[] linker = OnPath("clang") ? [] : ["-p:CppCompilerAndLinker=gcc"];
        await DotnetAsync(copy, ["publish", "samples/ConsoleChat", "-c", "Release", "-r", System.Runtime.InteropServices.RuntimeInformation.RuntimeIdentifier, "-o", copy.File("published"), .. linker]);
        output.WriteLine($"executable: {new FileInfo(Path.Combine(copy.Path, "published", "ConsoleChat")).Length:N0} bytes");
        // One system's libraries, and nothing for a compiler.
        Assert.DoesNotContain(Directory.GetFiles(copy.File("published")), static file => Path.GetExtension(file) is ".dll" or ".lib" or ".xml");
        await AssertAnswersAsync(Path.Combine(copy.Path, "published", "ConsoleChat"), [], copy);
    }

    [Fact]
    public async Task Trimmed_PublishesWithoutWarningsAndChats()
    {
        using var copy = CopyOfTheSources();
        var program = OperatingSystem.IsWindows() ? "ConsoleChat.exe" : "ConsoleChat";
        await DotnetAsync(copy, ["publish", "samples/ConsoleChat", "-c", "Release", "-r", System.Runtime.InteropServices.RuntimeInformation.RuntimeIdentifier, "--self-contained", "-p:PublishAot=false", "-p:PublishTrimmed=true", "-o", copy.File("published")]);
        output.WriteLine($"Ernie.Sdk.dll: {new FileInfo(Path.Combine(copy.Path, "published", "Ernie.Sdk.dll")).Length:N0} bytes");
        await AssertAnswersAsync(Path.Combine(copy.Path, "published", program), [], copy);
    }

    [Fact]
    public async Task ThePackage_RunsTheReadmesFirstProgram_InAProjectOfItsOwn()
    {
        using var copy = CopyOfTheSources();
        // A version of its own: whatever of this package lies in the user's folder is another one.
        var version = $"0.1.0-test{DateTime.UtcNow:yyyyMMddHHmmss}";
        await DotnetAsync(copy, ["pack", "src/Ernie.Sdk", "-c", "Release", "-o", copy.File("packages"), $"-p:Version={version}"]);
        // Outside the copy: nothing of the repository's build files reaches it. What is restored here stays here; what others have restored is taken from where it lies.
        using var project = new TemporaryFolder();
        var shared = Environment.GetEnvironmentVariable("NUGET_PACKAGES") is { Length: > 0 } packages ? packages : Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".nuget", "packages");
        var restores = new Dictionary<string, string> { ["NUGET_PACKAGES"] = project.File("nuget"), ["NUGET_FALLBACK_PACKAGES"] = Directory.Exists(shared) ? shared : "" };
        await DotnetAsync(project, restores, ["new", "console", "-o", project.File("MyApp"), "--framework", "net10.0"]);
        await File.WriteAllTextAsync(project.File("MyApp/Program.cs"), Documentation.Readme.Blocks("csharp")[0], TestContext.Current.CancellationToken);
        await DotnetAsync(project, restores, ["new", "nugetconfig"]);
        await DotnetAsync(project, restores, ["nuget", "add", "source", copy.File("packages"), "--name", "ernie", "--configfile", project.File("nuget.config")]);
        await DotnetAsync(project, restores, ["add", "MyApp", "package", "Ernie.Sdk", "--version", version]);
        await DotnetAsync(project, restores, ["add", "MyApp", "package", "Microsoft.ML.OnnxRuntime", "--version", "1.31.0"]);
        await DotnetAsync(project, restores, ["build", "MyApp", "-o", project.File("built")]);
        Copy(TinyModel.Checkpoint, project.File("samples/ernie-tiny-moe"));
        var environment = new Dictionary<string, string> { ["XDG_DATA_HOME"] = project.File("data"), ["HOME"] = project.Path };
        var result = await ChildProcess.RunAsync("dotnet", [project.File("built/MyApp.dll")], project.Path, environment: environment);
        Assert.True(result.ExitCode == 0, result.Output + result.Error);
        Assert.StartsWith("The capital of Norway is Oslo.", result.Output, StringComparison.Ordinal);
        Assert.True(Directory.Exists(project.File($"nuget/ernie.sdk/{version}")));
        Assert.False(Directory.Exists(Path.Combine(shared, "ernie.sdk", version)), $"The test left its package in {shared}.");
    }

    [Fact]
    public async Task TheTool_HoldsTheLibrariesOfSupportedSystemsAlone_AndRuns()
    {
        using var copy = CopyOfTheSources();
        var version = $"0.1.0-test{DateTime.UtcNow:yyyyMMddHHmmss}";
        await DotnetAsync(copy, ["pack", "src/Ernie.Cli", "-c", "Release", "-o", copy.File("packages"), $"-p:Version={version}"]);
        await using (var package = await ZipFile.OpenReadAsync(Assert.Single(Directory.GetFiles(copy.File("packages"))), TestContext.Current.CancellationToken))
        {
            var native = package.Entries.Select(static entry => entry.FullName).Where(static name => name.Contains("/native/", StringComparison.Ordinal)).ToArray();
            string[] systems = ["linux-arm64", "linux-x64", "osx", "osx-arm64", "win-arm64", "win-x64"];
            Assert.Equal(systems, native.Select(static name => name.Split('/')[^3]).Distinct().Order(StringComparer.Ordinal));
            Assert.All(native, static name => Assert.Contains(Path.GetExtension(name), s_sharedLibraries));
            Assert.Equal(5, native.Count(static name => Path.GetFileNameWithoutExtension(name) is "onnxruntime" or "libonnxruntime"));
            Assert.DoesNotContain(package.Entries, static entry => entry.Name is "onnxruntime.dll" or "Ernie.Sdk.xml" && !entry.FullName.Contains("/native/", StringComparison.Ordinal));
        }
        var environment = new Dictionary<string, string> { ["NUGET_PACKAGES"] = copy.File("nuget"), ["XDG_DATA_HOME"] = copy.File("data") };
        await DotnetAsync(copy, environment, ["tool", "install", "Ernie.Cli", "--version", version, "--tool-path", copy.File("tools"), "--add-source", copy.File("packages")]);
        var ernie = copy.File(OperatingSystem.IsWindows() ? "tools/ernie.exe" : "tools/ernie");
        string[][] commands = [["doctor"], ["bench", TinyModel.Checkpoint, "--runs", "1", "--sequences", "1", "--prefill", "128", "--plot", copy.File("bench.png")]];
        foreach (var command in commands)
        {
            var result = await ChildProcess.RunAsync(ernie, command, copy.Path, s_limit, environment);
            Assert.True(result.ExitCode == 0, result.Output + result.Error);
        }
        Assert.True(new FileInfo(copy.File("bench.png")).Length > 0);
    }

    private static async Task AssertAnswersAsync(string program, string[] arguments, TemporaryFolder copy)
    {
        // The export goes to the user's data folder: give the run one of its own.
        var environment = new Dictionary<string, string> { ["XDG_DATA_HOME"] = copy.File("data"), ["HOME"] = copy.Path };
        var result = await ChildProcess.RunAsync(program, [.. arguments, "--prompt", "What is the capital of Norway?"], copy.Path, environment: environment);
        Assert.Equal((0, "The capital of Norway is Oslo."), (result.ExitCode, result.Output.Trim()));
    }

    private Task DotnetAsync(TemporaryFolder copy, params string[] arguments) => DotnetAsync(copy, null, arguments);

    private async Task DotnetAsync(TemporaryFolder copy, Dictionary<string, string>? environment, params string[] arguments)
    {
        var result = await ChildProcess.RunAsync("dotnet", arguments, copy.Path, s_limit, environment);
        output.WriteLine(result.Output);
        Assert.True(result.ExitCode == 0, result.Output + result.Error);
        Assert.DoesNotContain(": warning ", result.Output, StringComparison.OrdinalIgnoreCase);
    }

    private static TemporaryFolder CopyOfTheSources()
    {
        Assert.SkipUnless(Environment.GetEnvironmentVariable("CI") == "true" || Environment.GetEnvironmentVariable("ERNIE_FULL") == "1", "Builds for minutes: set CI=true or ERNIE_FULL=1 to run it.");
        var copy = new TemporaryFolder();
        foreach (var entry in new[] { "src", "samples", "README.md", "Directory.Build.props", "global.json", ".editorconfig" }) Copy(Path.Combine(SharedData.RepositoryRoot, entry), Path.Combine(copy.Path, entry));
        return copy;
    }

    private static void Copy(string from, string to)
    {
        if (File.Exists(from))
        {
            File.Copy(from, to);
            return;
        }
        Directory.CreateDirectory(to);
        foreach (var entry in Directory.EnumerateFileSystemEntries(from))
        {
            if (Path.GetFileName(entry) is not ("bin" or "obj")) Copy(entry, Path.Combine(to, Path.GetFileName(entry)));
        }
    }

    private static bool OnPath(string program) =>
        (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator).Any(folder => folder.Length > 0 && File.Exists(Path.Combine(folder, program)));
}
