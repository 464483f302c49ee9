using System.Text.Json;
using System.Text.Json.Nodes;
using ContractCheck;
using Microsoft.Extensions.AI;
using Samples.Documents;

// What differs between contracts, as JSON that follows a schema: on standard output, so that another program can read it.
//
//   dotnet run --project samples/ContractCheck                                          the tiny model, contracts that it can read
//   dotnet run --project samples/ContractCheck -- --document contracts --tokens 8192    the tiny model, contracts that it cannot: the JSON is valid all the same
//   dotnet run --project samples/ContractCheck -- --model PATH --tokens 131072          a checkpoint or an exported model
//   dotnet run --project samples/ContractCheck -- --model PATH --document FOLDER > differences.json

const string Usage = "Usage: ContractCheck [--model PATH] [--document tiny|contracts|FOLDER] [--tokens N] [--seed N] [--schema FILE]";
const int AnswerTokens = 2048;

if (!Arguments.TryParse(args, Usage, ["--model", "--document", "--tokens", "--seed", "--schema"], out var arguments)) return 2;

return await DocumentModel.RunAsync(async stop =>
{
    await using var model = await DocumentModel.LoadAsync(arguments.Model, stop);
    var random = new Random(arguments.Seed);
    var room = model.Room(arguments.Tokens, AnswerTokens);
    var kind = arguments["--document"] ?? (arguments.Model is null ? "tiny" : "contracts");
    var contracts = kind switch
    {
        "tiny" => ContractSet.ForTinyModel(room, model.Count, random),
        "contracts" => GeneratedContracts.Create(room, model.Count, random),
        var folder => ContractSet.FromFolder(folder, room, model.Count),
    };
    Console.Error.WriteLine($"{contracts.Contracts.Count} contracts, {contracts.Contracts.Sum(static contract => contract.Clauses.Count):N0} clauses, {model.Count(contracts.Text):N0} tokens");
    var schema = DifferencesSchema.For(contracts);
    if (arguments["--schema"] is { } file) File.WriteAllText(file, schema.ToJsonString());

    var differences = kind == "tiny"
        ? await Extraction.CompareAsync(contracts, model, stop)
        : JsonNode.Parse(await model.AskAsync(
            [new ChatMessage(ChatRole.User, $"{contracts.Text}\n\nCompare the contracts. Give as JSON every term in which they differ, with the clause and the value of each contract, or null where a contract has no such term.")],
            ChatResponseFormat.ForJsonSchema(JsonSerializer.SerializeToElement(schema)), AnswerTokens, Console.Error, stop))!.AsObject();
    Console.WriteLine(differences.ToJsonString(new JsonSerializerOptions { WriteIndented = true }));

    // For a person to look at.
    foreach (var difference in differences["differences"]!.AsArray())
    {
        Console.Error.WriteLine($"\n{difference!["topic"]}");
        foreach (var (contract, term) in difference["terms"]!.AsObject()) Console.Error.WriteLine($"  {contract,-12} {(term is null ? "-" : $"[{term["clause"]}] {term["value"]}")}");
    }
    if (contracts.Differing.Count == 0) return 0;
    // A difference is found where all of its clauses are named together.
    var named = differences["differences"]!.AsArray().Select(static difference => difference!["terms"]!.AsObject().Select(static term => $"{term.Value?["clause"]}").ToHashSet()).ToArray();
    Console.Error.WriteLine($"\n{contracts.Differing.Count(clauses => named.Any(clauses.IsSubsetOf))} of the {contracts.Differing.Count} terms that differ were found, {named.Length} differences reported.");
    return 0;
});
