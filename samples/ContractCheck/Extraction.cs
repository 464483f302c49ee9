using System.Text.Json;
using System.Text.Json.Nodes;
using Microsoft.Extensions.AI;
using Samples.Documents;

namespace ContractCheck;

/// <summary>How the tiny model compares: it has learnt to extract one clause, so it is asked for each, and the program compares. The contracts are computed once; the questions reuse them.</summary>
internal static class Extraction
{
    private const int AnswerTokens = 128;

    public static async Task<JsonObject> CompareAsync(ContractSet contracts, DocumentModel model, CancellationToken cancellationToken)
    {
        // topic → contract → term
        var topics = new Dictionary<string, Dictionary<string, JsonNode>>();
        foreach (var contract in contracts.Contracts)
        {
            foreach (var clause in contract.Clauses)
            {
                var format = ChatResponseFormat.ForJsonSchema(JsonSerializer.SerializeToElement(ClauseSchema(int.Parse(clause.Id))));
                var answer = await model.AskAsync([new ChatMessage(ChatRole.User, $"{contracts.Text}\n\nExtract clause {clause.Id} as JSON.")], format, AnswerTokens, Console.Error, cancellationToken);
                var (topic, value) = Read(JsonNode.Parse(answer)!.AsObject());
                if (!topics.TryGetValue(topic, out var terms)) topics.Add(topic, terms = []);
                terms[contract.Name] = new JsonObject { ["clause"] = clause.Id, ["value"] = value };
            }
        }
        var differing = topics.Where(topic => topic.Value.Count < contracts.Contracts.Count || topic.Value.Values.Select(static term => $"{term["value"]}").Distinct().Count() > 1);
        return new JsonObject
        {
            ["differences"] = new JsonArray([.. differing.Select(topic => (JsonNode)new JsonObject
            {
                ["topic"] = topic.Key,
                ["terms"] = new JsonObject(contracts.Contracts.Select(contract => KeyValuePair.Create(contract.Name, topic.Value.GetValueOrDefault(contract.Name)))),
            })]),
        };
    }

    /// <summary>The four kinds of clause that there are, each with this number.</summary>
    private static JsonObject ClauseSchema(int number)
    {
        return new JsonObject
        {
            ["anyOf"] = new JsonArray(
                Kind(("item", "string"), ("amount", "integer"), ("unit", "string"), ("period", "string")),
                Kind(("period", "string"), ("days", "integer")),
                Kind(("term", "string"), ("end", "string")),
                Kind(("company", "string"), ("quantity", "integer"), ("goods", "string"), ("place", "string"))),
        };

        JsonObject Kind(params (string Name, string Type)[] properties) => DifferencesSchema.Closed(
        [
            KeyValuePair.Create("clause", (JsonNode?)new JsonObject { ["const"] = number }),
            .. properties.Select(static property => KeyValuePair.Create(property.Name, (JsonNode?)(property.Type == "string" ? new JsonObject { ["type"] = "string", ["maxLength"] = 40 } : new JsonObject { ["type"] = property.Type, ["minimum"] = 0 }))),
        ]);
    }

    private static (string Topic, string Value) Read(JsonObject clause)
    {
        if (clause.ContainsKey("item")) return ($"{clause["item"]}", $"{clause["amount"]} {clause["unit"]} per {clause["period"]}");
        if (clause.ContainsKey("days")) return ($"{clause["period"]}", $"{clause["days"]} days");
        if (clause.ContainsKey("term")) return ($"end of {clause["term"]}", $"{clause["end"]}");
        return ($"delivery of {clause["goods"]}", $"{clause["quantity"]} from {clause["company"]} to {clause["place"]}");
    }
}
