using System.Text.Json.Nodes;
using ContractCheck;
using Json.Schema;

namespace Ernie.Sdk.Tests.Samples;

/// <summary>The sample ContractCheck: JSON that its schema admits, and the planted differences where the tiny model can read the contracts.</summary>
public sealed class ContractCheckTests
{
    private const string Sample = "ContractCheck";

    [Theory]
    [InlineData(512, 2)]
    [InlineData(2048, 1)]
    public async Task TinyContracts_DifferencesAreFound(int tokens, int seed)
    {
        var (document, error) = await RunAsync("--tokens", $"{tokens}", "--seed", $"{seed}");
        Assert.Contains("3 of the 3 terms that differ were found, 3 differences reported.", error, StringComparison.Ordinal);
        var contracts = ContractSet.ForTinyModel(tokens - Math.Min(512, tokens / 8), DocumentSample.Count, new Random(seed));
        var named = document["differences"]!.AsArray().Select(static difference => difference!["terms"]!.AsObject().Select(static term => $"{term.Value!["clause"]}").ToHashSet());
        Assert.Equal(contracts.Differing.Select(Sorted).Order(StringComparer.Ordinal), named.Select(Sorted).Order(StringComparer.Ordinal));
        // What it says of a clause stands there.
        var texts = contracts.Contracts.SelectMany(static contract => contract.Clauses).ToDictionary(static clause => clause.Id, static clause => clause.Text.Replace(",", "", StringComparison.Ordinal));
        Assert.All(document["differences"]!.AsArray().SelectMany(static difference => difference!["terms"]!.AsObject()), term =>
            Assert.All($"{term.Value!["value"]}".Split(' ').Where(static word => word is not ("from" or "to")), word => Assert.Contains(word, texts[$"{term.Value["clause"]}"], StringComparison.Ordinal)));
    }

    [Fact]
    public async Task LongContracts_GiveValidJson()
    {
        var (document, error) = await RunAsync("--document", "contracts", "--tokens", "8192");
        Assert.NotEmpty(document["differences"]!.AsArray());
        Assert.Contains("3 contracts, 99 clauses", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task OwnContracts_AreNamedByTheirFiles()
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllTextAsync(folder.File("buy.txt"), "The late fee is 20 euros per day.\n\nThe lease ends on 4 March 2027.\n", TestContext.Current.CancellationToken);
        await File.WriteAllTextAsync(folder.File("sell.md"), "The late fee is 30 euros per day.\n", TestContext.Current.CancellationToken);
        await File.WriteAllTextAsync(folder.File("photo.png"), "no text", TestContext.Current.CancellationToken);
        var (_, error) = await RunAsync("--document", folder.Path);
        Assert.Contains("2 contracts, 3 clauses", error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(2048)]
    [InlineData(131_072)]
    public void GeneratedContracts_FillTheirRoomAndDiffer(int room)
    {
        var contracts = GeneratedContracts.Create(room, DocumentSample.Count, new Random(3));
        Assert.InRange(DocumentSample.Count(contracts.Text), room * 9 / 10, room);
        Assert.Equal(3, contracts.Contracts.Count);
        Assert.NotEmpty(contracts.Differing);
        Assert.All(contracts.Differing, clauses =>
        {
            var texts = contracts.Contracts.Select(contract => Assert.Single(contract.Clauses, clause => clauses.Contains(clause.Id)).Text).ToArray();
            Assert.Equal(3, texts.Distinct().Count());
            // The same wording, another term.
            Assert.Single(texts.Select(static text => text[..Math.Min(12, text.Length)]).Distinct());
        });
    }

    [Theory]
    [InlineData(2, "Usage: ContractCheck ", "--colour red")]
    [InlineData(2, "--tokens takes 512 to 131072; it was '0'.", "--tokens 0")]
    [InlineData(1, "there is no folder ", "--document nowhere")]
    [InlineData(1, "nowhere", "--model nowhere")]
    public Task WrongArguments_AreNamed(int exitCode, string cause, string arguments) => DocumentSample.AssertRefusedAsync(Sample, exitCode, cause, arguments);

    [Fact]
    public async Task AFolderWithOneContract_IsRefused()
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllTextAsync(folder.File("one.txt"), "The lease ends on 4 March 2027.\n", TestContext.Current.CancellationToken);
        await DocumentSample.AssertRefusedAsync(Sample, 1, "give two contracts or more", $"--document {folder.Path}");
    }

    /// <summary>A run whose standard output is one document that the schema it wrote admits.</summary>
    private static async Task<(JsonObject Document, string Error)> RunAsync(params string[] arguments)
    {
        using var folder = new TemporaryFolder();
        var result = await DocumentSample.SucceedAsync(Sample, [.. arguments, "--schema", folder.File("schema.json")]);
        var document = JsonNode.Parse(result.Output)!;
        var judge = JsonSchema.FromText(await File.ReadAllTextAsync(folder.File("schema.json"), TestContext.Current.CancellationToken));
        Assert.True(judge.Evaluate(System.Text.Json.JsonSerializer.SerializeToElement(document)).IsValid, result.Output);
        return (document.AsObject(), result.Error);
    }

    private static string Sorted(IEnumerable<string> clauses) => string.Join(' ', clauses.Order(StringComparer.Ordinal));
}
