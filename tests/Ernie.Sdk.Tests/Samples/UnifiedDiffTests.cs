using RepoRefactor;

namespace Ernie.Sdk.Tests.Samples;

/// <summary>The writer of diffs of the sample RepoRefactor.</summary>
public sealed class UnifiedDiffTests
{
    private const string Numbers = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n";

    [Fact]
    public void OneLine_HasThreeLinesOfContext() => Assert.Equal("--- a/n.txt\n+++ b/n.txt\n@@ -2,7 +2,8 @@\n 2\n 3\n 4\n-5\n+five\n+and a half\n 6\n 7\n 8\n", Diff(Numbers, (5, 5, ["five", "and a half"])));

    [Fact]
    public void ContextsThatTouch_ShareAHunk() => Assert.Single(Hunks(Diff(Numbers, (2, 2, ["a"]), (9, 9, ["b"]))));

    [Fact]
    public void ContextsThatDoNot_AreTwoHunks_TheSecondShifted()
    {
        var hunks = Hunks(Diff(Numbers, (1, 1, ["a", "b"]), (9, 9, ["c"])));
        Assert.Equal(new[] { "@@ -1,4 +1,5 @@", "@@ -6,7 +7,7 @@" }, hunks);
    }

    [Fact]
    public void LinesThatStay_AreNotPartOfAChange() => Assert.Equal(Diff(Numbers, (5, 5, ["x"])), Diff(Numbers, (4, 6, ["4", "x", "6"])));

    [Fact]
    public void NoChange_IsNoDiff() => Assert.Empty(Diff(Numbers, (4, 5, ["4", "5"]), (7, 6, [])));

    [Fact]
    public void OfEditsThatOverlap_TheFirstCounts() => Assert.Equal(Diff(Numbers, (3, 6, ["x"])), Diff(Numbers, (5, 8, ["y"]), (3, 6, ["x"])));

    [Fact]
    public void EditsOfNeighbouringLines_BothCount() => Assert.Equal("--- a/n.txt\n+++ b/n.txt\n@@ -1,6 +1,6 @@\n 1\n 2\n-3\n+x\n-4\n+y\n 5\n 6\n", Diff("1\n2\n3\n4\n5\n6\n", (3, 3, ["x"]), (4, 4, ["y"])));

    [Fact]
    public void CarriageReturns_AreTheFilesOwn() => Assert.Equal("--- a/n.txt\n+++ b/n.txt\n@@ -1,2 +1,2 @@\n a\r\n-b\r\n+c\r\n", Diff("a\r\nb\r\n", (2, 2, ["c"])));

    [Fact]
    public void LastLineWithoutALineFeed_StaysSo() =>
        Assert.Equal("--- a/n.txt\n+++ b/n.txt\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n", Diff("a\nb", (2, 2, ["c"])));

    [Fact]
    public void NamesThatGitQuotes_AreQuoted() => Assert.StartsWith("--- \"a/tab\\t\\\"\\\\.txt\"\n+++ \"b/tab\\t\\\"\\\\.txt\"\n", UnifiedDiff.Of([new Edit(SourceFile.Of("tab\t\"\\.txt", "1\n"), 1, 1, ["2"])]), StringComparison.Ordinal);

    /// <summary>Edits of chance of files of chance: git makes of them what their definition says.</summary>
    [Fact]
    public async Task RandomEdits_ApplyToTheSameFilesAsByDefinition()
    {
        using var folder = new TemporaryFolder();
        await PatchFile.GitAsync(folder.Path, "init", "--quiet");
        var random = new Random(5);
        var edits = new List<Edit>();
        var expected = new Dictionary<string, string>();
        for (var n = 0; n < 300; n++)
        {
            // Few different lines, so that changes resemble their surroundings.
            string Word() => "abc"[random.Next(3)..][..1];
            var ending = random.Next(4) == 0 ? "\r\n" : "\n";
            var lines = Enumerable.Range(0, random.Next(1, 30)).Select(_ => Word()).ToArray();
            var text = string.Join(ending, lines) + (random.Next(3) == 0 ? "" : ending);
            var file = SourceFile.Of($"{n}.txt", text);
            await File.WriteAllTextAsync(folder.File(file.Path), text, TestContext.Current.CancellationToken);

            var result = new List<string>();
            var line = 1;
            while (line <= lines.Length + 1)
            {
                var stay = random.Next(9);
                result.AddRange(lines.Skip(line - 1).Take(stay));
                line += stay;
                if (line > lines.Length + 1) break;
                var replaced = Math.Min(random.Next(4), lines.Length + 1 - line);
                string[] replacement = [.. Enumerable.Range(0, random.Next(replaced == 0 ? 1 : 0, 4)).Select(_ => Word())];
                edits.Add(new Edit(file, line, line + replaced - 1, replacement));
                result.AddRange(replacement);
                line += replaced;
                // An insertion and a replacement at one line are in no order.
                if (line > lines.Length) break;
                result.Add(lines[line - 1]);
                line++;
            }
            // Whether the last line is terminated is a property of the file's last line; where that is gone, the line before was terminated.
            var terminated = text.EndsWith('\n') || (edits[^1] is { Replacement.Count: 0 } last && last.File == file && last.Last == lines.Length);
            expected.Add(file.Path, string.Join(ending, result) + (terminated && result.Count > 0 ? ending : ""));
        }
        random.Shuffle(System.Runtime.InteropServices.CollectionsMarshal.AsSpan(edits));
        await PatchFile.ApplyAsync(folder.Path, UnifiedDiff.Of(edits));
        foreach (var (path, text) in expected) Assert.Equal((path, text), (path, File.Exists(folder.File(path)) ? await File.ReadAllTextAsync(folder.File(path), TestContext.Current.CancellationToken) : ""));
    }

    private static string Diff(string text, params (int First, int Last, string[] Replacement)[] edits)
    {
        var file = SourceFile.Of("n.txt", text);
        return UnifiedDiff.Of(edits.Select(edit => new Edit(file, edit.First, edit.Last, edit.Replacement)));
    }

    private static string[] Hunks(string diff) => [.. diff.Split('\n').Where(static line => line.StartsWith("@@", StringComparison.Ordinal))];
}
