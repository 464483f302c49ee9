using System.Text.Json;
using System.Text.Json.Nodes;

namespace Ernie.Sdk.Tests.Chat.Grammars;

/// <summary>Draws schemas of the subset that grammars are made of, recursive ones too.</summary>
internal sealed class RandomSchema(Random random)
{
    private static readonly string[] s_names = ["name", "id", "价格", "a\"b", "tags", "x", "next item", "é", "value", "city", "na", "a\\"];
    private static readonly string[] s_patterns = ["^[a-z]{2,5}$", "^(yes|no|maybe)$", "[0-9]{3}", "^\\d+(\\.\\d+)?$", "^[^a]*$", "^[A-Z][a-z]+ [A-Z]", "^(ab?c)+$"];

    public JsonElement Next()
    {
        var root = Schema(3);
        root["$defs"] = new JsonObject { ["tree"] = Tree(), ["leaf"] = Scalar() };
        return JsonSerializer.SerializeToElement(root);
    }

    private JsonObject Schema(int depth) => depth == 0 ? Scalar() : random.Next(10) switch
    {
        < 4 => Object(depth),
        < 6 => Array(depth),
        6 => new JsonObject { ["anyOf"] = new JsonArray([.. Enumerable.Range(0, random.Next(1, 4)).Select(_ => (JsonNode)Schema(depth - 1))]) },
        7 => new JsonObject { ["$ref"] = random.Next(3) switch { 0 => "#/$defs/leaf", _ => "#/$defs/tree" } },
        8 => Tagged(depth),
        _ => Scalar(),
    };

    private JsonObject Object(int depth)
    {
        var names = s_names.OrderBy(_ => random.Next()).Take(random.Next(0, 5)).ToArray();
        var schema = new JsonObject { ["type"] = "object", ["properties"] = new JsonObject(names.Select(name => KeyValuePair.Create(name, (JsonNode?)Schema(depth - 1)))) };
        schema["required"] = new JsonArray([.. names.Where(_ => random.Next(2) == 0).Select(static name => (JsonNode)name)]);
        switch (random.Next(4))
        {
            case 0: schema["additionalProperties"] = false; break;
            case 1: schema["additionalProperties"] = Schema(depth - 1); break;
            case 2: schema["additionalProperties"] = true; break;
        }
        return schema;
    }

    private JsonObject Array(int depth)
    {
        var schema = new JsonObject { ["type"] = "array" };
        var least = random.Next(0, 4);
        if (random.Next(2) == 0) schema["minItems"] = least;
        if (random.Next(2) == 0) schema["maxItems"] = least + random.Next(0, 4);
        if (random.Next(3) == 0) schema["prefixItems"] = new JsonArray([.. Enumerable.Range(0, random.Next(1, 3)).Select(_ => (JsonNode)Schema(depth - 1))]);
        if (random.Next(4) > 0 || schema.ContainsKey("minItems")) schema["items"] = Schema(depth - 1);
        return schema;
    }

    /// <summary>Branches that exclude each other by a constant.</summary>
    private JsonObject Tagged(int depth)
    {
        return new JsonObject { ["oneOf"] = new JsonArray([.. new[] { "cat", "dog" }.Select(kind =>
        {
            var branch = Object(depth);
            branch["properties"]!["kind"] = new JsonObject { ["const"] = kind };
            ((JsonArray)branch["required"]!).Add((JsonNode)"kind");
            return (JsonNode)branch;
        })]) };
    }

    private static JsonObject Tree() => JsonNode.Parse("""
        {"type": "object", "properties": {"v": {"type": "integer", "minimum": -3, "maximum": 12}, "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 3}}, "required": ["v", "children"]}
        """)!.AsObject();

    private JsonObject Scalar()
    {
        var schema = new JsonObject();
        switch (random.Next(8))
        {
            case 0:
                schema["enum"] = new JsonArray("red", "green", 7, null, true, "r\n\"", JsonNode.Parse("""{"a": [1, "x"]}"""));
                break;
            case 1:
                schema["const"] = random.Next(2) == 0 ? "fixed text" : 42;
                break;
            case 2:
                schema["type"] = new JsonArray("string", "null");
                if (random.Next(2) == 0) schema["minLength"] = random.Next(0, 40);
                break;
            case 3:
                schema["type"] = "string";
                var least = random.Next(0, 9);
                schema["minLength"] = least;
                schema["maxLength"] = least + random.Next(0, 20);
                break;
            case 4:
                schema["type"] = "string";
                schema["pattern"] = s_patterns[random.Next(s_patterns.Length)];
                break;
            case 5:
                schema["type"] = "integer";
                Range(schema, random.Next(-150, 150), random.Next(0, 300));
                break;
            case 6:
                schema["type"] = "number";
                Range(schema, random.Next(-1000, 1000) / 100m, random.Next(100, 1000) / 100m);
                break;
            default:
                schema["type"] = random.Next(3) switch { 0 => "boolean", 1 => "null", _ => "string" };
                break;
        }
        return schema;
    }

    private void Range(JsonObject schema, decimal least, decimal width)
    {
        if (random.Next(3) > 0) schema[random.Next(2) == 0 ? "minimum" : "exclusiveMinimum"] = least;
        // Wide enough for a number between exclusive bounds.
        if (random.Next(3) > 0) schema[random.Next(2) == 0 ? "maximum" : "exclusiveMaximum"] = least + width + 2;
    }
}
