using System.ComponentModel;
using System.ComponentModel.DataAnnotations;
using System.Reflection;
using System.Text.Json;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>Functions with parameters of many kinds, and with schemas as servers of the Model Context Protocol give them.</summary>
internal static class ContractSchemas
{
    private static readonly string[] s_foreign =
    [
        """{"type":"object","properties":{},"additionalProperties":false,"$schema":"http://json-schema.org/draft-07/schema#"}""",
        """{"type":"object","properties":{"duration":{"type":"number","default":10,"description":"Duration in seconds"},"steps":{"type":"number","default":5}},"additionalProperties":false,"$schema":"http://json-schema.org/draft-07/schema#"}""",
        """{"type":"object","properties":{"prompt":{"type":"string","description":"The prompt"},"maxTokens":{"type":"number","default":100}},"required":["prompt"],"additionalProperties":false}""",
        """{"type":"object","properties":{"messageType":{"type":"string","enum":["error","success","debug"]},"includeImage":{"type":"boolean","default":false}},"required":["messageType"],"additionalProperties":false}""",
        """{"type":"object","properties":{"resourceId":{"type":"number","minimum":1,"maximum":100}},"required":["resourceId"],"additionalProperties":false}""",
        """{"properties":{"body":{"description":"The text","type":"string"},"line":{"type":"number"},"side":{"description":"The side of the diff","enum":["LEFT","RIGHT"],"type":"string"},"subjectType":{"enum":["FILE","LINE"],"type":"string"}},"required":["body","subjectType"],"type":"object"}""",
        """{"type":"object","properties":{"labels":{"type":"object"}},"additionalProperties":{"type":"string"}}""",
    ];

    public static IReadOnlyList<AIFunction> Tools(bool isStrict)
    {
        var count = 0;
        Dictionary<string, object?> additional = isStrict ? new() { ["strict"] = true } : [];
        return
        [
            Of(static (int? i) => i), Of(static (string? s) => s), Of(static (int? i = null) => i), Of(static (bool b) => b), Of(static (double d) => d), Of(static (decimal d) => d), Of(static (float f) => f),
            Of(static (long l) => l), Of(static (char c) => c), Of(static (DateTime dt) => dt), Of(static (DateTimeOffset? dt) => dt), Of(static (TimeSpan ts) => ts), Of(static (DateOnly d) => d), Of(static (TimeOnly t) => t),
            Of(static (Uri uri) => uri), Of(static (Guid guid) => guid), Of(static (List<int> list) => list), Of(static (int[] arr, ComplexObject? co) => arr),
            Of(static (string p1 = "str", int p2 = 42, BindingFlags p3 = BindingFlags.IgnoreCase, char p4 = 'x') => p1),
            Of(static (string? p1 = "str", int? p2 = 42, BindingFlags? p3 = BindingFlags.IgnoreCase, char? p4 = 'x') => p1),
            .. s_foreign.Select(schema => new ForeignFunction($"Foreign{count++}", JsonDocument.Parse(schema).RootElement, additional)),
        ];

        AIFunction Of(Delegate method) => AIFunctionFactory.Create(method, new AIFunctionFactoryOptions { Name = $"Method{count++}", AdditionalProperties = additional });
    }

    private sealed class ForeignFunction(string name, JsonElement schema, IReadOnlyDictionary<string, object?> additional) : AIFunction
    {
        public override string Name => name;
        public override JsonElement JsonSchema => schema;
        public override IReadOnlyDictionary<string, object?> AdditionalProperties => additional;
        protected override ValueTask<object?> InvokeCoreAsync(AIFunctionArguments arguments, CancellationToken cancellationToken) => throw new NotSupportedException();
    }

    internal sealed class ComplexObject
    {
        [DisplayName("Something cool")]
        [DeniedValues("abc", "def", "default")]
        public string? SomeString { get; set; }

        [AllowedValues("abc", "def", "default")]
        public string AnotherString { get; set; } = "default";

        [Range(25, 75)]
        public int Value { get; set; }

        [EmailAddress]
        public string? Email { get; set; }

        [RegularExpression("[abc]")]
        public string? RegexString { get; set; }

        [StringLength(42)]
        public string MeasuredString { get; set; } = "default";

        [Length(1, 2)]
        public int[]? MeasuredArray { get; set; }
    }
}
