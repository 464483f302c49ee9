using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Microsoft.Extensions.AI;
using Samples.Documents;

namespace RepoRefactor;

/// <summary>
/// A refactoring that the tiny model can do its part of: numbers in functions get names. It has learnt to extract what a function computes, so it is asked for each; the program makes the edits of it, and leaves a
/// function alone that was misread: a refactoring may not change what is computed.
/// </summary>
internal static partial class NamedNumbers
{
    private const int AnswerTokens = 64;

    public static async Task<List<Edit>> EditAsync(Repository repository, DocumentModel model, CancellationToken cancellationToken)
    {
        var edits = new List<Edit>();
        var asked = 0;
        foreach (var file in repository.Files)
        {
            foreach (var (i, line) in file.Lines.Index())
            {
                if (Function().Match(line) is not { Success: true, Groups: var groups }) continue;
                var name = groups["name"].Value;
                var format = ChatResponseFormat.ForJsonSchema(JsonSerializer.SerializeToElement(Schema(name)));
                var answer = JsonNode.Parse(await model.AskAsync([new ChatMessage(ChatRole.User, $"{repository.Text}\n\nExtract {name} as JSON.")], format, AnswerTokens, Console.Error, cancellationToken))!;
                asked++;
                if ($"def {name}(x): return x {answer["operator"]} {answer["number"]}" != line.TrimEnd('\r', '\n')) continue;
                var constant = $"{name.ToUpperInvariant()}_{(answer["operator"]!.ToString() switch { "+" or "-" => "STEP", "%" => "MODULUS", _ => "FACTOR" })}";
                edits.Add(new Edit(file, i + 1, i + 1, [$"{constant} = {answer["number"]}", $"def {name}(x): return x {answer["operator"]} {constant}"]));
            }
        }
        Console.Error.WriteLine($"{edits.Count} of {asked} functions were read right{(edits.Count < asked ? "; the others stay as they are" : "")}.");
        return edits;
    }

    private static JsonObject Schema(string name) => new()
    {
        ["type"] = "object",
        ["properties"] = new JsonObject
        {
            ["function"] = new JsonObject { ["const"] = name },
            ["operator"] = new JsonObject { ["enum"] = new JsonArray("+", "-", "*", "//", "%") },
            ["number"] = new JsonObject { ["type"] = "integer", ["minimum"] = 0, ["maximum"] = 9999 },
        },
        ["required"] = new JsonArray("function", "operator", "number"),
        ["additionalProperties"] = false,
    };

    [GeneratedRegex(@"^def (?<name>\w+)\(x\): return x ")]
    private static partial Regex Function();
}
