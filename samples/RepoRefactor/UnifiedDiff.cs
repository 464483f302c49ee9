using System.Text;

namespace RepoRefactor;

/// <summary>Lines of a file, and what replaces them. Line numbers begin at 1; <paramref name="Last"/> may be <paramref name="First"/> - 1, which inserts before the first.</summary>
internal sealed record Edit(SourceFile File, int First, int Last, IReadOnlyList<string> Replacement);

/// <summary>Edits as a patch that <c>git apply</c> takes: what it says of the old lines is read from the files, so it always fits them.</summary>
internal static class UnifiedDiff
{
    private const int Context = 3;

    public static string Of(IEnumerable<Edit> edits)
    {
        var diff = new StringBuilder();
        foreach (var file in edits.GroupBy(static edit => edit.File))
        {
            var changes = WithoutOverlaps(file);
            if (changes.Count == 0) continue;
            diff.Append($"--- {Quoted("a/" + file.Key.Path)}\n+++ {Quoted("b/" + file.Key.Path)}\n");
            for (var i = 0; i < changes.Count;)
            {
                // Changes whose contexts touch share a hunk.
                var end = i + 1;
                while (end < changes.Count && changes[end].First - changes[end - 1].Last - 1 <= 2 * Context) end++;
                AppendHunk(diff, file.Key, changes, i, end);
                i = end;
            }
        }
        return diff.ToString();
    }

    /// <summary>Edits in order: the first of those that overlap, none that changes nothing, and only lines that change.</summary>
    private static List<Edit> WithoutOverlaps(IEnumerable<Edit> edits)
    {
        var result = new List<Edit>();
        foreach (var edit in edits.Select(AfterTheEnd).OrderBy(static edit => edit.First).ThenBy(static edit => edit.Last))
        {
            var lines = Terminated(edit);
            var old = edit.File.Lines;
            var (first, last, from, to) = (edit.First, edit.Last, 0, lines.Count);
            while (first <= last && from < to && old[first - 1] == lines[from]) (first, from) = (first + 1, from + 1);
            while (first <= last && from < to && old[last - 1] == lines[to - 1]) (last, to) = (last - 1, to - 1);
            if (first > last && from == to) continue;
            if (result.Count > 0 && first <= result[^1].Last) continue;
            result.Add(new Edit(edit.File, first, last, lines[from..to]));
        }
        return result;
    }

    /// <summary>What is inserted after a last line without a line feed goes on that line: both are replaced.</summary>
    private static Edit AfterTheEnd(Edit edit) => edit.File.Lines is [.., var end] lines && edit.First > lines.Count && !end.EndsWith('\n')
        ? edit with { First = lines.Count, Replacement = [end, .. edit.Replacement] }
        : edit;

    /// <summary>The new lines with the file's own line endings; the last line of a file without a final line feed stays so.</summary>
    private static List<string> Terminated(Edit edit)
    {
        var old = edit.File.Lines;
        var ending = old.Count > 0 && old[0].EndsWith("\r\n", StringComparison.Ordinal) ? "\r\n" : "\n";
        List<string> lines = [.. edit.Replacement.Select(line => line + ending)];
        if (lines.Count > 0 && edit.Last == old.Count && old.Count > 0 && !old[^1].EndsWith('\n')) lines[^1] = edit.Replacement[^1];
        return lines;
    }

    private static void AppendHunk(StringBuilder diff, SourceFile file, List<Edit> changes, int begin, int end)
    {
        var start = Math.Max(1, changes[begin].First - Context);
        var stop = Math.Min(file.Lines.Count, changes[end - 1].Last + Context);
        var oldCount = stop - start + 1;
        var newCount = oldCount + changes[begin..end].Sum(static edit => edit.Replacement.Count - (edit.Last - edit.First + 1));
        // What is before the hunk has shifted by the changes there.
        var shift = changes[..begin].Sum(static edit => edit.Replacement.Count - (edit.Last - edit.First + 1));
        diff.Append($"@@ -{Range(start, oldCount)} +{Range(start + shift, newCount)} @@\n");
        var line = start;
        foreach (var edit in changes[begin..end])
        {
            for (; line < edit.First; line++) Append(diff, ' ', file.Lines[line - 1]);
            for (; line <= edit.Last; line++) Append(diff, '-', file.Lines[line - 1]);
            foreach (var text in edit.Replacement) Append(diff, '+', text);
        }
        for (; line <= stop; line++) Append(diff, ' ', file.Lines[line - 1]);
    }

    /// <summary>An empty range is named by the line before it.</summary>
    private static string Range(int start, int count) => count == 0 ? $"{start - 1},0" : $"{start},{count}";

    private static void Append(StringBuilder diff, char sign, string line)
    {
        diff.Append(sign).Append(line);
        if (!line.EndsWith('\n')) diff.Append("\n\\ No newline at end of file\n");
    }

    /// <summary>As Git writes names with characters that would end them.</summary>
    private static string Quoted(string path) => path.AsSpan().IndexOfAny("\t\n\"\\") < 0 ? path
        : $"\"{path.Replace("\\", "\\\\").Replace("\"", "\\\"").Replace("\t", "\\t").Replace("\n", "\\n")}\"";
}
