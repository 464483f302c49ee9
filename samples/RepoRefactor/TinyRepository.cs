namespace RepoRefactor;

/// <summary>A repository of small Python files in the grammar that the tiny model was trained on.</summary>
internal static class TinyRepository
{
    private static readonly string[] s_modules = ["billing", "grading", "shipping"];
    private static readonly string[] s_names = ["rate", "width", "margin", "weight", "delay", "scale", "count", "offset", "price", "tax", "speed", "bonus"];
    private static readonly string[] s_operators = ["+", "-", "*", "//", "%"];
    private static readonly string[] s_comments = ["used by the tests", "keep this file sorted", "no side effects", "reviewed last week", "see the notes for details", "moved from the old module"];

    /// <summary>Writes the files into a new temporary folder, the longer the more room there is.</summary>
    public static string Write(int room, Func<string, int> count, Random random)
    {
        var files = s_modules.Select(static _ => new List<string>()).ToArray();
        // The number of a function is its own: the model tells functions apart by it.
        var numbers = Enumerable.Range(10, 90).ToArray();
        random.Shuffle(numbers);
        for (var i = 0; i < 6 * files.Length; i++)
        {
            var line = $"def {s_names[random.Next(s_names.Length)]}_{numbers[i]}(x): return x {s_operators[random.Next(s_operators.Length)]} {random.Next(100, 999)}";
            room -= count(line + "\n");
            files[i % files.Length].Add(line);
        }
        while (true)
        {
            var line = $"# {s_comments[random.Next(s_comments.Length)]}";
            if ((room -= count(line + "\n")) < 0) break;
            var file = files[random.Next(files.Length)];
            file.Insert(random.Next(file.Count + 1), line);
        }
        var root = Directory.CreateTempSubdirectory("repo-refactor-").FullName;
        foreach (var (i, lines) in files.Index()) File.WriteAllText(Path.Combine(root, s_modules[i] + ".py"), string.Join('\n', lines) + "\n");
        return root;
    }
}
