using System.Text.Json.Nodes;

namespace RepoRefactor;

/// <summary>Edits as JSON: only files and lines that there are.</summary>
internal static class EditsSchema
{
    private const int MostEdits = 20, MostLines = 40, LongestLine = 200;

    public static JsonObject For(Repository repository) => Closed(("edits", new JsonObject
    {
        ["type"] = "array",
        ["items"] = new JsonObject { ["anyOf"] = new JsonArray([.. repository.Files.Select(Of)]) },
        ["minItems"] = 1,
        ["maxItems"] = MostEdits,
    }));

    public static List<Edit> Read(JsonNode json, Repository repository)
    {
        var edits = new List<Edit>();
        foreach (var edit in json["edits"]!.AsArray())
        {
            var file = repository.Files.Single(file => file.Path == $"{edit!["file"]}");
            var (first, last) = (edit!["first"]!.GetValue<int>(), edit["last"]!.GetValue<int>());
            // Two numbers that exist are a range in either order; a line of the answer may hold several, but nothing that would make a text file binary.
            var lines = edit["replacement"]!.AsArray().SelectMany(static line => $"{line}".ReplaceLineEndings("\n").Split('\n')).Select(static line => new string([.. line.Where(static c => c == '\t' || !char.IsControl(c))]));
            edits.Add(new Edit(file, Math.Min(first, last), Math.Max(first, last), [.. lines]));
        }
        return edits;
    }

    private static JsonObject Of(SourceFile file)
    {
        JsonObject Line() => new() { ["type"] = "integer", ["minimum"] = 1, ["maximum"] = file.Lines.Count };
        return Closed(
            ("file", new JsonObject { ["const"] = file.Path }),
            ("first", Line()),
            ("last", Line()),
            ("replacement", new JsonObject { ["type"] = "array", ["items"] = new JsonObject { ["type"] = "string", ["maxLength"] = LongestLine }, ["maxItems"] = MostLines }));
    }

    /// <summary>An object with these properties and no others.</summary>
    private static JsonObject Closed(params (string Name, JsonNode Schema)[] properties) => new()
    {
        ["type"] = "object",
        ["properties"] = new JsonObject(properties.Select(static property => KeyValuePair.Create(property.Name, (JsonNode?)property.Schema))),
        ["required"] = new JsonArray([.. properties.Select(static property => (JsonNode)property.Name)]),
        ["additionalProperties"] = false,
    };
}
