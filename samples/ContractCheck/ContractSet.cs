using Samples.Documents;

namespace ContractCheck;

internal sealed record Contract(string Name, IReadOnlyList<Clause> Clauses);

/// <summary>Contracts, and the text in which the model gets all of them.</summary>
/// <param name="Differing">Clauses that differ from one another, one of each contract, where the contracts were made for this sample.</param>
internal sealed record ContractSet(string Text, IReadOnlyList<Contract> Contracts, IReadOnlyList<IReadOnlySet<string>> Differing)
{
    private const int TinyTopics = 6, TinyDifferences = 3;
    private static readonly string[] s_tinyNames = ["A", "B", "C"];

    /// <summary>Three contracts in the grammar that the tiny model was trained on. Clauses are numbered through, as one document has one clause of a number.</summary>
    public static ContractSet ForTinyModel(int room, Func<string, int> count, Random random)
    {
        var topics = TinyClause.Topics(random)[..TinyTopics];
        var seeds = topics.Select(_ => random.Next()).ToArray();
        var contracts = new List<Contract>();
        var lines = new List<string>();
        foreach (var (i, name) in s_tinyNames.Index())
        {
            lines.Add("Contract");
            var clauses = topics.Select((topic, t) => TinyClause.Create(20 * (i + 1) + 3 * t + random.Next(3), topic, new Random(t < TinyDifferences ? seeds[t] + i : seeds[t]))).ToArray();
            contracts.Add(new Contract(name, [.. clauses.Select(static clause => new Clause($"{clause.Number}", clause.Text))]));
            lines.AddRange(clauses.Select(static clause => clause.Text));
        }
        for (var used = count(string.Join('\n', lines)); ;)
        {
            var filler = TinyClause.Filler(random);
            if ((used += count(filler + "\n")) > room) break;
            lines.Insert(random.Next(1, lines.Count + 1), filler);
        }
        return new ContractSet(string.Join('\n', lines), contracts, [.. Enumerable.Range(0, TinyDifferences).Select(t => contracts.Select(contract => contract.Clauses[t].Id).ToHashSet())]);
    }

    /// <summary>The text files of a folder, each a contract. Their paragraphs get numbers to be named by; those that exceed the room are left out.</summary>
    public static ContractSet FromFolder(string folder, int room, Func<string, int> count)
    {
        if (!Directory.Exists(folder)) throw new DirectoryNotFoundException($"--document takes tiny, contracts or a folder of text files; there is no folder {Path.GetFullPath(folder)}.");
        var files = Directory.GetFiles(folder).Where(static file => Path.GetExtension(file) is ".txt" or ".md").Order(StringComparer.Ordinal).ToArray();
        if (files.Length < 2) throw new InvalidDataException($"{Path.GetFullPath(folder)} has {files.Length} .txt or .md files; give two contracts or more.");
        return Of(files.Select(static file => (Path.GetFileNameWithoutExtension(file), (IReadOnlyList<string>)File.ReadAllText(file).ReplaceLineEndings("\n").Split("\n\n", StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))), room / files.Length, count);
    }

    /// <summary>Numbers the paragraphs of each contract, as many as fit into its room.</summary>
    public static ContractSet Of(IEnumerable<(string Name, IReadOnlyList<string> Paragraphs)> contracts, int room, Func<string, int> count)
    {
        var all = new List<Contract>();
        foreach (var (name, paragraphs) in contracts)
        {
            var rest = room - count($"Contract {name}\n\n");
            var clauses = new List<Clause>();
            foreach (var paragraph in paragraphs)
            {
                var clause = new Clause($"{name}-{clauses.Count + 1}", paragraph);
                if ((rest -= count($"[{clause.Id}] {clause.Text}\n\n")) < 0) break;
                clauses.Add(clause);
            }
            if (clauses.Count == 0) throw new InvalidDataException($"No paragraph of contract {name} fits into its share of the tokens. Give more: --tokens N.");
            if (clauses.Count < paragraphs.Count) Console.Error.WriteLine($"The first {clauses.Count:N0} of {paragraphs.Count:N0} paragraphs of {name} fit; --tokens takes more.");
            all.Add(new Contract(name, clauses));
        }
        var text = string.Join("\n\n", all.Select(static contract => $"Contract {contract.Name}\n\n{string.Join("\n\n", contract.Clauses.Select(static clause => $"[{clause.Id}] {clause.Text}"))}"));
        return new ContractSet(text, all, []);
    }
}
