using System.Globalization;
using System.Text.Json.Nodes;
using Samples.Documents;

namespace AnnualReport;

/// <summary>A question; where the report was made for it, also the clause that answers it and, for the tiny model, the answer word for word.</summary>
internal sealed record Question(string Text, string? Clause = null, string? Answer = null)
{
    /// <summary>What asks for the clauses that the answer rests on.</summary>
    public string Citation { get; init; } = "Name the clauses that say so, as JSON.";
}

/// <summary>A report as the model gets it, and its clauses by number.</summary>
/// <param name="CitesOne">Whether an answer cites one clause, as the tiny model has learnt to, or up to three.</param>
internal sealed record Report(string Text, IReadOnlyList<Clause> Clauses, IReadOnlyList<Question> Questions, bool CitesOne = false)
{
    private const int TinyQuestions = 4, TinyClauses = 16;

    /// <summary>A citation as JSON: some of the clauses that there are, and nothing else.</summary>
    public JsonObject CitationSchema()
    {
        var clause = new JsonObject { ["enum"] = new JsonArray([.. Clauses.Select(clause => CitesOne ? JsonValue.Create(int.Parse(clause.Id, CultureInfo.InvariantCulture)) : (JsonNode)clause.Id)]) };
        return new JsonObject
        {
            ["type"] = "object",
            ["properties"] = CitesOne
                ? new JsonObject { ["clause"] = clause }
                : new JsonObject { ["clauses"] = new JsonObject { ["type"] = "array", ["items"] = clause, ["minItems"] = 1, ["maxItems"] = 3 } },
            ["required"] = new JsonArray(CitesOne ? "clause" : "clauses"),
            ["additionalProperties"] = false,
        };
    }

    /// <summary>The clauses that such a citation names.</summary>
    public IEnumerable<Clause> Cited(string citation)
    {
        var json = JsonNode.Parse(citation)!;
        JsonNode?[] ids = CitesOne ? [json["clause"]] : [.. json["clauses"]!.AsArray()];
        return ids.Select(static id => $"{id}").Distinct().Select(id => Clauses.Single(clause => clause.Id == id));
    }

    /// <summary>Clauses in the grammar that the tiny model was trained on, among lines that say nothing.</summary>
    public static Report ForTinyModel(int room, Func<string, int> count, Random random)
    {
        var topics = TinyClause.Topics(random)[..TinyClauses];
        var numbers = Enumerable.Range(10, 60).ToArray();
        random.Shuffle(numbers);
        Array.Sort(numbers, 0, TinyClauses);
        var clauses = topics.Select((topic, i) => TinyClause.Create(numbers[i], topic, random)).ToArray();
        var lines = clauses.Select(static clause => clause.Text).Prepend("Annual report").ToList();
        // The heading stays first.
        for (var used = count(string.Join('\n', lines)); ;)
        {
            var filler = TinyClause.Filler(random);
            if ((used += count(filler + "\n")) > room) break;
            lines.Insert(random.Next(1, lines.Count + 1), filler);
        }
        return new Report(string.Join('\n', lines), [.. clauses.Select(static clause => new Clause($"{clause.Number}", clause.Text))],
            [.. clauses.Where((_, i) => i % (TinyClauses / TinyQuestions) == i / (TinyClauses / TinyQuestions)).Select(static clause => new Question(clause.Question, $"{clause.Number}", clause.Answer) { Citation = $"Extract clause {clause.Number} as JSON." })], CitesOne: true);
    }

    /// <summary>A text file. Its paragraphs get numbers to be cited by; those that exceed the room are left out.</summary>
    public static Report FromFile(string file, int room, Func<string, int> count)
    {
        if (!File.Exists(file)) throw new FileNotFoundException($"--document takes tiny, report or a text file; there is no file {Path.GetFullPath(file)}.");
        var paragraphs = File.ReadAllText(file).ReplaceLineEndings("\n").Split("\n\n", StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        var clauses = new List<Clause>();
        foreach (var paragraph in paragraphs)
        {
            var clause = new Clause($"{clauses.Count + 1}", paragraph);
            if ((room -= count($"[{clause.Id}] {clause.Text}\n\n")) < 0) break;
            clauses.Add(clause);
        }
        if (clauses.Count == 0) throw new InvalidDataException($"{file} has no paragraph that fits into the tokens. Give more: --tokens N.");
        if (clauses.Count < paragraphs.Length) Console.Error.WriteLine($"The first {clauses.Count:N0} of {paragraphs.Length:N0} paragraphs fit; --tokens takes more.");
        return new Report(string.Join("\n\n", clauses.Select(static clause => $"[{clause.Id}] {clause.Text}")), clauses, []);
    }
}
