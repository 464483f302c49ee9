using System.Text.RegularExpressions;
using AnnualReport;

namespace Ernie.Sdk.Tests.Samples;

/// <summary>The sample AnnualReport: answers about reports that the tiny model can read, citations of clauses that exist for those that it cannot.</summary>
public sealed partial class AnnualReportTests
{
    private const string Sample = "AnnualReport";

    [Theory]
    [InlineData(512, 1)]
    [InlineData(2048, 1)]
    public async Task TinyReport_IsAnsweredAndCitedRight(int tokens, int seed)
    {
        var result = await DocumentSample.SucceedAsync(Sample, "--tokens", $"{tokens}", "--seed", $"{seed}");
        Assert.Contains("4 of 4 answers are right.", result.Output, StringComparison.Ordinal);
        // The same clause is named twice: as the model cites it, and as the report was made.
        var cited = Cited().Matches(result.Output).Select(static match => match.Groups[1].Value);
        var written = Written().Matches(result.Output).Select(static match => match.Groups[1].Value).ToArray();
        Assert.Equal(4, written.Length);
        Assert.Equal(written, cited);
        // The report was computed once: every later prompt takes its whole blocks from the cache.
        Assert.Equal(7, FromCache().Matches(result.Error).Count(static match => match.Groups[1].Value != "0"));
    }

    [Fact]
    public async Task LongReport_CitesClausesThatExist()
    {
        var result = await DocumentSample.SucceedAsync(Sample, "--document", "report", "--tokens", "8192");
        var report = GeneratedReport.Create(8192 - 512, DocumentSample.Count, new Random(1));
        Assert.InRange(DocumentSample.Count(report.Text), 7000, 8192 - 512);
        var texts = report.Clauses.ToDictionary(static clause => clause.Id, static clause => clause.Text);
        var cited = CitedText().Matches(result.Output);
        Assert.InRange(cited.Count, report.Questions.Count, 3 * report.Questions.Count);
        Assert.All(cited, match => Assert.Equal(texts[match.Groups[1].Value], match.Groups[2].Value.TrimEnd('\r')));
        Assert.Equal(report.Questions.Select(static question => question.Clause), Written().Matches(result.Output).Select(static match => match.Groups[1].Value));
    }

    [Fact]
    public async Task OwnDocument_IsNumberedByParagraph()
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllTextAsync(folder.File("report.md"), "The board met in March.\r\n\r\nThe late fee is 4,812 yuan per day.\r\n\r\nThe auditors had no further remarks.\r\n", TestContext.Current.CancellationToken);
        var result = await DocumentSample.SucceedAsync(Sample, "--document", folder.File("report.md"), "--question", "What is the late fee?");
        Assert.Contains("Q: What is the late fee?", result.Output, StringComparison.Ordinal);
        Assert.All(CitedText().Matches(result.Output), static match => Assert.InRange(match.Groups[1].Value, "1", "3"));
        Assert.Contains("3 clauses", result.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(1024)]
    [InlineData(8192)]
    [InlineData(131_072)]
    public void GeneratedReport_FillsItsRoomAndHoldsTheAnswers(int room)
    {
        var report = GeneratedReport.Create(room, DocumentSample.Count, new Random(3));
        // Numbers of clauses are counted as if all were long, and the last paragraph did not fit.
        Assert.InRange(DocumentSample.Count(report.Text), (room * 19 / 20) - 250, room);
        Assert.Equal(report.Clauses.Count, report.Clauses.Select(static clause => clause.Id).Distinct().Count());
        Assert.All(report.Clauses, clause => Assert.Contains($"[{clause.Id}] {clause.Text}\n", report.Text + "\n", StringComparison.Ordinal));
        Assert.NotEmpty(report.Questions);
        Assert.All(report.Questions, question => Assert.Single(report.Clauses, clause => clause.Id == question.Clause));
        Assert.Equal(report.Text, GeneratedReport.Create(room, DocumentSample.Count, new Random(3)).Text);
        Assert.NotEqual(report.Text, GeneratedReport.Create(room, DocumentSample.Count, new Random(4)).Text);
    }

    [Theory]
    [InlineData(2, "Usage: AnnualReport ", "--colour red")]
    [InlineData(2, "Usage: AnnualReport ", "--tokens")]
    [InlineData(2, "Usage: AnnualReport ", "--tokens 512 --tokens 1024")]
    [InlineData(2, "--tokens takes 512 to 131072; it was '200000'.", "--tokens 200000")]
    [InlineData(2, "--seed takes 0 to 2147483647; it was 'one'.", "--seed one")]
    [InlineData(2, "Ask something about nowhere.md: --question TEXT.", "--model nowhere --document nowhere.md")]
    [InlineData(1, "there is no file ", "--document nowhere.md --question Who?")]
    [InlineData(1, "nowhere", "--model nowhere")]
    public Task WrongArguments_AreNamed(int exitCode, string cause, string arguments) => DocumentSample.AssertRefusedAsync(Sample, exitCode, cause, arguments);

    [GeneratedRegex(@"^   \[(\S+)\]", RegexOptions.Multiline)]
    private static partial Regex Cited();

    [GeneratedRegex(@"^   \[(\S+)\] (.*)$", RegexOptions.Multiline)]
    private static partial Regex CitedText();

    [GeneratedRegex(@"^   Written in the report for this question: \[(\S+)\]", RegexOptions.Multiline)]
    private static partial Regex Written();

    [GeneratedRegex(@"tokens read, ([\d,]+) of them from the cache")]
    private static partial Regex FromCache();
}
