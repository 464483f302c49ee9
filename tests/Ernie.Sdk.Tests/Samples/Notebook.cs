using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace Ernie.Sdk.Tests.Samples;

/// <summary>A notebook as it is written: a file-based app, whose lines <c>// %%</c> begin cells of code and <c>// %% [markdown]</c> begin text. What follows <c>// %% program</c> is for the program alone.</summary>
internal sealed partial record Notebook(string Name, IReadOnlyList<string> Directives, IReadOnlyList<NotebookCell> Cells)
{
    public static string Folder { get; } = Path.Combine(SharedData.RepositoryRoot, "samples", "notebooks");

    /// <summary>Where a notebook finds the library: the build that its README asks for.</summary>
    public const string Library = "../../src/Ernie.Sdk/bin/Release/net10.0/";

    private static readonly JsonSerializerOptions s_indented = new() { WriteIndented = true, IndentSize = 1, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    public string File => Path.Combine(Folder, $"{Name}.ipynb");

    public static Notebook Read(string name)
    {
        var lines = System.IO.File.ReadAllText(Path.Combine(Folder, $"{name}.cs")).ReplaceLineEndings("\n").Split('\n');
        var first = Array.FindIndex(lines, static line => line.StartsWith("// %%", StringComparison.Ordinal));
        var cells = new List<NotebookCell>();
        for (var i = first; i < lines.Length && lines[i] != "// %% program";)
        {
            var isMarkdown = lines[i] == "// %% [markdown]";
            Assert.True(isMarkdown || lines[i] == "// %%", $"{name}.cs: no cell begins with '{lines[i]}'.");
            var end = Array.FindIndex(lines, i + 1, static line => line.StartsWith("// %%", StringComparison.Ordinal)) is >= 0 and var next ? next : lines.Length;
            var text = string.Join('\n', lines[(i + 1)..end].Select(line => isMarkdown ? Comment().Replace(line, "") : line)).Trim('\n');
            cells.Add(new NotebookCell(text, isMarkdown));
            i = end;
        }
        return new Notebook(name, [.. lines[..first].Where(static line => line.StartsWith("#:", StringComparison.Ordinal))], cells);
    }

    /// <summary>The packages of the directives, with the versions that this repository uses.</summary>
    public IEnumerable<(string Name, string Version)> Packages()
    {
        var props = System.IO.File.ReadAllText(Path.Combine(SharedData.RepositoryRoot, "Directory.Build.props"));
        foreach (var directive in Directives)
        {
            if (!directive.StartsWith("#:package ", StringComparison.Ordinal)) continue;
            var name = directive["#:package ".Length..].Trim();
            yield return (name, Regex.Match(props, $"<PackageVersion Include=\"{Regex.Escape(name)}\" Version=\"([^\"]+)\"").Groups[1].Value);
        }
    }

    /// <summary>What a notebook needs before its first cell, where the program has directives and a folder with all libraries.</summary>
    /// <param name="library">Folder of the library, with a slash at its end.</param>
    public IReadOnlyList<string> SetUp(string library = Library)
    {
        var version = Regex.Match(System.IO.File.ReadAllText(Path.Combine(SharedData.RepositoryRoot, "Directory.Build.props")), "Include=\"Microsoft.ML.Tokenizers\" Version=\"([^\"]+)\"").Groups[1].Value;
        var packages = Packages().Append(("Microsoft.ML.Tokenizers", version)).Distinct();
        return
        [
            $"#r \"{library}Ernie.Sdk.dll\"\n{string.Join('\n', packages.Select(static package => $"#r \"nuget:{package.Item1}, {package.Item2}\""))}",
            """
            // What a program has by itself: names, and a folder with its libraries. ONNX Runtime's native library lies in its package, beside that of the managed half.
            using System.IO;
            using System.Linq;
            using System.Net.Http;
            using System.Runtime.InteropServices;
            using System.Runtime.Loader;
            using System.Threading;

            AssemblyLoadContext.GetLoadContext(typeof(Ernie.Sdk.ErnieModel).Assembly)!.ResolvingUnmanagedDll += (_, name) =>
            {
                var managed = new FileInfo(typeof(Microsoft.ML.OnnxRuntime.OrtEnv).Assembly.Location).Directory!.Parent!.Parent!;
                var native = Path.Combine(managed.Parent!.Parent!.FullName, "microsoft.ml.onnxruntime", managed.Name, "runtimes", RuntimeInformation.RuntimeIdentifier, "native");
                return name.Contains("onnxruntime") && Directory.Exists(native)
                    ? NativeLibrary.Load(Directory.GetFiles(native).Single(file => Path.GetFileNameWithoutExtension(file) is "onnxruntime" or "libonnxruntime" && Path.GetExtension(file) is ".dll" or ".so" or ".dylib"))
                    : 0;
            };
            """.ReplaceLineEndings("\n"),
        ];
    }

    /// <summary>The notebook's file (nbformat 4.5).</summary>
    /// <param name="outputs">What each cell of code printed and showed, in their order.</param>
    public string ToJson(IReadOnlyList<JsonArray> outputs)
    {
        var count = 0;
        var code = 0;
        JsonObject Code(string source, JsonArray shown) => new()
        {
            ["cell_type"] = "code",
            ["execution_count"] = ++count,
            ["id"] = "",
            ["metadata"] = new JsonObject(),
            ["outputs"] = shown,
            ["source"] = Lines(source),
        };
        JsonObject Text(string source) => new() { ["cell_type"] = "markdown", ["id"] = "", ["metadata"] = new JsonObject(), ["source"] = Lines(source) };
        // The title stays first.
        var cells = new List<JsonObject>();
        foreach (var cell in Cells)
        {
            if (cell.IsMarkdown) cells.Add(Text(cell.Text));
            else
            {
                if (code == 0) cells.AddRange(SetUp().Select(source => Code(source, [])));
                cells.Add(Code(cell.Text, outputs[code++].DeepClone().AsArray()));
            }
        }
        foreach (var (i, cell) in cells.Index()) cell["id"] = $"{Name}-{i + 1}";
        var notebook = new JsonObject
        {
            ["cells"] = new JsonArray([.. cells]),
            ["metadata"] = new JsonObject
            {
                ["kernelspec"] = new JsonObject { ["display_name"] = ".NET (C#)", ["language"] = "C#", ["name"] = ".net-csharp" },
                ["language_info"] = new JsonObject { ["file_extension"] = ".cs", ["mimetype"] = "text/x-csharp", ["name"] = "polyglot-notebook", ["pygments_lexer"] = "csharp" },
            },
            ["nbformat"] = 4,
            ["nbformat_minor"] = 5,
        };
        return notebook.ToJsonString(s_indented).ReplaceLineEndings("\n") + "\n";
    }

    /// <summary>The cells as a program that says where each begins: U+001E. What is shown comes as a line of U+001F and base64.</summary>
    public string ToProgram()
    {
        var program = new StringBuilder();
        foreach (var directive in Directives)
        {
            if (directive.StartsWith("#:project ", StringComparison.Ordinal)) program.Append($"#:project {Path.GetFullPath(Path.Combine(Folder, directive["#:project ".Length..].Trim()))}\n");
            else if (!directive.StartsWith("#:package ", StringComparison.Ordinal)) program.Append($"{directive}\n");
        }
        foreach (var (name, version) in Packages()) program.Append($"#:package {name}@{version}\n");
        var code = Cells.Where(static cell => !cell.IsMarkdown).Select(static cell => cell.Text.Split('\n')).ToArray();
        // Directives for names come before all statements.
        foreach (var line in code.SelectMany(static lines => lines).Where(static line => Using().IsMatch(line))) program.Append($"{line}\n");
        foreach (var lines in code) program.Append($"Console.Write(\"\\u001E\");\n{string.Join('\n', lines.Where(static line => !Using().IsMatch(line)))}\n");
        program.Append("static string HTML(string html) => html;\nstatic void display(string html) => Console.Write($\"\\u001F{Convert.ToBase64String(System.Text.Encoding.UTF8.GetBytes(html))}\\n\");\n");
        return program.ToString();
    }

    /// <summary>What a run of <see cref="ToProgram"/> printed, cell by cell.</summary>
    public static IReadOnlyList<JsonArray> Outputs(string printed) =>
    [
        .. printed.ReplaceLineEndings("\n").Split('\u001E').Skip(1).Select(static cell =>
        {
            var outputs = new JsonArray();
            foreach (var part in Shown().Split(cell))
            {
                if (part.Length == 0) continue;
                outputs.Add(part[0] == '\u001F'
                    ? new JsonObject { ["data"] = new JsonObject { ["text/html"] = Lines(Encoding.UTF8.GetString(Convert.FromBase64String(part[1..].Trim()))) }, ["metadata"] = new JsonObject(), ["output_type"] = "display_data" }
                    : new JsonObject { ["name"] = "stdout", ["output_type"] = "stream", ["text"] = Lines(part) });
            }
            return outputs;
        }),
    ];

    /// <summary>A text as nbformat has it: lines with their ends.</summary>
    private static JsonArray Lines(string text) => [.. text.ReplaceLineEndings("\n").Split('\n').SkipLast(1).Select(static line => JsonValue.Create($"{line}\n")).Append(JsonValue.Create(text[(text.LastIndexOf('\n') + 1)..])).Where(static line => line.GetValue<string>().Length > 0)];

    [GeneratedRegex("^// ?")]
    private static partial Regex Comment();

    [GeneratedRegex(@"^using [\w.]+;$")]
    private static partial Regex Using();

    [GeneratedRegex("(\u001F[^\n]*\n)")]
    private static partial Regex Shown();
}

internal sealed record NotebookCell(string Text, bool IsMarkdown);
