using System.Text.Json.Nodes;

namespace ContractCheck;

/// <summary>What the result looks like: for each topic one term of each contract, which names a clause of that contract, or null.</summary>
internal static class DifferencesSchema
{
    public static JsonObject For(ContractSet contracts)
    {
        var terms = Closed([.. contracts.Contracts.Select(static contract => KeyValuePair.Create(contract.Name, (JsonNode?)new JsonObject
        {
            ["anyOf"] = new JsonArray(
                Closed(
                    KeyValuePair.Create("clause", (JsonNode?)new JsonObject { ["enum"] = new JsonArray([.. contract.Clauses.Select(static clause => (JsonNode)clause.Id)]) }),
                    KeyValuePair.Create("value", (JsonNode?)new JsonObject { ["type"] = "string", ["maxLength"] = 120 })),
                new JsonObject { ["type"] = "null" }),
        }))]);
        var difference = Closed(KeyValuePair.Create("topic", (JsonNode?)new JsonObject { ["type"] = "string", ["maxLength"] = 60 }), KeyValuePair.Create("terms", (JsonNode?)terms));
        // Contracts that were made to differ do; others may not.
        var least = contracts.Differing.Count > 0 ? 1 : 0;
        return Closed(KeyValuePair.Create("differences", (JsonNode?)new JsonObject { ["type"] = "array", ["items"] = difference, ["minItems"] = least, ["maxItems"] = 20 }));
    }

    /// <summary>An object with these properties and no others.</summary>
    public static JsonObject Closed(params KeyValuePair<string, JsonNode?>[] properties) => new()
    {
        ["type"] = "object",
        ["properties"] = new JsonObject(properties),
        ["required"] = new JsonArray([.. properties.Select(static property => (JsonNode)property.Key)]),
        ["additionalProperties"] = false,
    };
}
