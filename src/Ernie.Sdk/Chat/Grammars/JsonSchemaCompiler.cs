using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text.Json;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>
/// Turns a JSON schema into rules. Documents are a subset of those that the schema admits: properties come in the schema's order, and others than those named only where
/// <c>additionalProperties</c> asks for them, or nothing is said of any.
/// </summary>
/// <remarks>
/// <c>type</c> (one or several; else what the other keywords are about), <c>enum</c>, <c>const</c>, <c>anyOf</c>, <c>oneOf</c> where its branches exclude each other, <c>allOf</c> of one,
/// <c>$ref</c> within the document, recursive ones too; <c>properties</c>, <c>required</c>, <c>additionalProperties</c>; <c>items</c>, <c>prefixItems</c>, <c>minItems</c>, <c>maxItems</c>;
/// <c>minLength</c>, <c>maxLength</c>, <c>pattern</c>, <c>not</c> of some strings, of <c>format</c> date-time, date, time, uuid and uri, and in base64; <c>minimum</c>, <c>maximum</c>, <c>exclusiveMinimum</c>, <c>exclusiveMaximum</c>. Annotations, other formats among
/// them, say nothing about documents. Every other keyword is refused.
/// </remarks>
internal sealed class JsonSchemaCompiler
{
    /// <summary>Larger counts would make more states than they are worth.</summary>
    private const int MaximumCount = 10_000;
    private const int MaximumDecimals = 8;
    private const int MaximumDepth = 256;

    private static readonly string[] s_objectKeywords = ["properties", "required", "additionalProperties"];
    private static readonly string[] s_arrayKeywords = ["items", "prefixItems", "minItems", "maxItems"];
    private static readonly string[] s_stringKeywords = ["minLength", "maxLength", "pattern"];
    private static readonly string[] s_numberKeywords = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    private static readonly string[] s_annotations =
    [
        "$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "format", "contentEncoding", "contentMediaType",
    ];
    private static readonly string[] s_types = ["null", "boolean", "object", "array", "number", "integer", "string"];

    private readonly JsonElement _root;
    private readonly GrammarNetwork _network;
    private readonly JsonRules _json;
    /// <summary>By JSON pointer, of which nothing is escaped for URIs.</summary>
    private readonly Dictionary<string, GrammarRule> _rules = new(StringComparer.Ordinal);
    private readonly Dictionary<(string Pattern, int Least, int Most), GrammarRule> _patterns = [];
    private int _depth;

    private JsonSchemaCompiler(JsonElement root, GrammarNetwork network, JsonRules json) => (_root, _network, _json) = (root, network, json);

    /// <exception cref="NotSupportedException">The schema has a keyword outside the subset; the message names it and where it stands.</exception>
    /// <exception cref="ArgumentException">The schema is no valid one.</exception>
    public static GrammarRule Compile(JsonElement schema, GrammarNetwork network, JsonRules json) => new JsonSchemaCompiler(schema, network, json).RuleOf(schema, "#");

    private GrammarRule RuleOf(JsonElement schema, string path)
    {
        if (_rules.TryGetValue(path, out var known)) return known;
        if (schema.ValueKind == JsonValueKind.True) return _json.Value;
        if (schema.ValueKind == JsonValueKind.False) throw Refused("false", path, "no document satisfies it");
        if (schema.ValueKind != JsonValueKind.Object) throw Invalid(path, $"a schema is an object, true or false, not {schema.ValueKind}");
        if (_rules.Count >= MaximumCount) throw Refused("schema", path, $"there are more than {MaximumCount} of them");
        if (_depth >= MaximumDepth || !RuntimeHelpers.TryEnsureSufficientExecutionStack()) throw Refused("schema", path, $"it is nested too deeply: at most {MaximumDepth} schemas may stand in one another, those of '$ref' among them");
        _depth++;
        CheckKeywords(schema, path);
        var rule = _rules[path] = _network.NewRule();
        var end = _network.NewState(rule, isExit: true);
        if (schema.TryGetProperty("$ref", out var reference)) AddAlone("$ref", () => _network.Call(rule.Start, Resolve(reference, path), end));
        else if (schema.TryGetProperty("const", out var constant)) AddAlone("const", () => AddValues([constant]), "type");
        else if (schema.TryGetProperty("enum", out var values)) AddAlone("enum", () => AddValues(Items(values, path + "/enum")), "type");
        else if (schema.TryGetProperty("anyOf", out var any)) AddAlone("anyOf", () => AddBranches("anyOf", any), "type");
        else if (schema.TryGetProperty("oneOf", out var one)) AddAlone("oneOf", () => AddBranches("oneOf", one), "type");
        else if (schema.TryGetProperty("allOf", out var all)) AddAlone("allOf", () => AddBranches("allOf", all));
        else foreach (var type in TypesOf(schema, path)) _network.Call(rule.Start, OfType(type, schema, path), end);
        _depth--;
        return rule;

        void AddAlone(string keyword, Action add, string? allowed = null)
        {
            foreach (var property in schema.EnumerateObject())
            {
                if (property.Name != keyword && property.Name != allowed && !s_annotations.Contains(property.Name)) throw Refused(property.Name, path, $"it stands beside '{keyword}'");
            }
            add();
        }

        void AddValues(IReadOnlyList<JsonElement> values)
        {
            var types = schema.TryGetProperty("type", out _) ? TypesOf(schema, path) : s_types;
            var isEmpty = true;
            foreach (var value in values.Where(value => types.Any(type => IsOf(value, type))))
            {
                _json.Constant(rule.Start, value, end);
                isEmpty = false;
            }
            if (isEmpty) NoValue(path, values.Count == 0 ? "'enum' is empty" : "no value of 'enum' or 'const' is of its 'type'");
        }

        void AddBranches(string keyword, JsonElement branches)
        {
            var list = Items(branches, $"{path}/{keyword}");
            if (list.Count == 0) throw Invalid($"{path}/{keyword}", "it is empty");
            if (keyword == "allOf" && list.Count > 1) throw Refused(keyword, path, "only one schema in it is supported");
            var types = schema.TryGetProperty("type", out _) ? TypesOf(schema, path) : null;
            for (var i = 0; i < list.Count; i++)
            {
                // What admits nothing adds nothing, beside a schema that does.
                if (list[i].ValueKind == JsonValueKind.False && list.Exists(static branch => branch.ValueKind != JsonValueKind.False)) continue;
                for (var other = 0; keyword == "oneOf" && other < i; other++)
                {
                    if (list[other].ValueKind == JsonValueKind.False) continue;
                    if (!AreDisjoint(list[i], list[other], path, 0)) throw Refused(keyword, path, $"schemas {other} and {i} may admit the same document; use anyOf, or give them different types, constants or required constant properties");
                }
                if (types is not null && list[i].ValueKind == JsonValueKind.Object && !TypesOf(Target(list[i], path), path).All(type => types.Contains(type) || (type == "integer" && types.Contains("number")))) throw Refused("type", path, $"it narrows '{keyword}'");
                _network.Call(rule.Start, RuleOf(list[i], $"{path}/{keyword}/{i}"), end);
            }
        }
    }

    private static void CheckKeywords(JsonElement schema, string path)
    {
        foreach (var property in schema.EnumerateObject())
        {
            if (property.Name is "type" or "enum" or "const" or "anyOf" or "oneOf" or "allOf" or "$ref" || s_annotations.Contains(property.Name) || s_objectKeywords.Contains(property.Name)
                || s_arrayKeywords.Contains(property.Name) || s_stringKeywords.Contains(property.Name) || s_numberKeywords.Contains(property.Name)) continue;
            if (property.Name == "not" && Denied(schema, path) is not null) continue;
            if (property is { Name: "uniqueItems", Value.ValueKind: JsonValueKind.False } || (property.Name is "minProperties" && property.Value.ValueKind == JsonValueKind.Number && property.Value.GetDouble() == 0)) continue;
            // A keyword that no specification knows is an annotation; these constrain.
            throw Refused(property.Name, path, "documents cannot be constrained by it");
        }
    }

    private GrammarRule OfType(string type, JsonElement schema, string path)
    {
        switch (type)
        {
            case "null": return Words("null");
            case "boolean": return Words("true", "false");
            case "object": return s_objectKeywords.Any(k => schema.TryGetProperty(k, out _)) ? ObjectOf(schema, path) : _json.Object;
            case "array": return s_arrayKeywords.Any(k => schema.TryGetProperty(k, out _)) ? ArrayOf(schema, path) : _json.Array;
            case "string": return StringOf(schema, path);
            default: return NumberOf(schema, path, type == "integer");
        }
    }

    private GrammarRule Words(params ReadOnlySpan<string> words)
    {
        var rule = _network.NewRule();
        var end = _network.NewState(rule, isExit: true);
        foreach (var word in words) _network.Literal(rule.Start, System.Text.Encoding.ASCII.GetBytes(word), end);
        return rule;
    }

    private GrammarRule ObjectOf(JsonElement schema, string path)
    {
        var additional = schema.TryGetProperty("additionalProperties", out var given) ? given : default;
        var properties = new List<(string Name, GrammarRule Rule, bool IsRequired)>();
        var required = schema.TryGetProperty("required", out var names) ? Items(names, path + "/required").Select(name => name.ValueKind == JsonValueKind.String ? name.GetString()! : throw Invalid(path + "/required", "it holds something that is no string")).ToList() : [];
        if (schema.TryGetProperty("properties", out var declared))
        {
            if (declared.ValueKind != JsonValueKind.Object) throw Invalid(path + "/properties", "it is no object");
            foreach (var property in declared.EnumerateObject())
            {
                // What must not be there is not written.
                if (property.Value.ValueKind == JsonValueKind.False && !required.Contains(property.Name)) continue;
                properties.Add((property.Name, RuleOf(property.Value, $"{path}/properties/{Escape(property.Name)}"), required.Contains(property.Name)));
            }
        }
        GrammarRule? other = additional.ValueKind switch
        {
            JsonValueKind.False => null,
            JsonValueKind.Undefined => schema.TryGetProperty("properties", out _) ? null : _json.Value,
            _ => RuleOf(additional, path + "/additionalProperties"),
        };
        foreach (var name in required.Distinct(StringComparer.Ordinal).Where(name => !properties.Exists(p => p.Name == name)))
        {
            if (additional.ValueKind == JsonValueKind.False) throw Refused("required", path, $"it asks for '{name}', which 'additionalProperties' forbids");
            properties.Add((name, additional.ValueKind == JsonValueKind.Undefined ? _json.Value : other!, true));
        }

        var rule = _network.NewRule(nests: true);
        var end = _network.NewState(rule, isExit: true);
        var open = _network.NewState(rule);
        // By property: before it, nothing written yet or something.
        var first = _network.NewState(rule);
        var later = -1;
        _network.Byte(rule.Start, '{', open);
        _network.Call(open, _json.Space, first);
        foreach (var (name, value, isRequired) in properties)
        {
            var (key, after) = (_network.NewState(rule), _network.NewState(rule));
            if (first >= 0) _network.States[first].Epsilons.Add(key);
            if (later >= 0) Separate(later, key);
            var colon = _network.NewState(rule);
            _network.Literal(key, _json.Spell(name), colon);
            AddValue(colon, value, after);
            if (isRequired) (first, later) = (-1, after);
            else
            {
                if (later >= 0) _network.States[later].Epsilons.Add(after);
                if (first >= 0) first = Skip(first);
                later = after;
            }
        }
        if (other is not null)
        {
            var (key, colon) = (_network.NewState(rule), _network.NewState(rule));
            var after = later >= 0 ? later : _network.NewState(rule);
            _network.Call(key, declared.ValueKind == JsonValueKind.Object || required.Count > 0 ? Except([.. properties.Select(static p => p.Name), .. Names(declared)], "additionalProperties", path) : _json.String, colon);
            if (first >= 0) _network.States[first].Epsilons.Add(key);
            Separate(after, key);
            AddValue(colon, other, after);
            later = after;
        }
        if (first >= 0) _network.Byte(first, '}', end);
        if (later >= 0)
        {
            var close = _network.NewState(rule);
            _network.Call(later, _json.Space, close);
            _network.Byte(close, '}', end);
        }
        return rule;

        // A state of its own: what the property adds to the one before must not come again after it.
        int Skip(int from)
        {
            var next = _network.NewState(rule);
            _network.States[from].Epsilons.Add(next);
            return next;
        }

        void Separate(int from, int to)
        {
            var comma = _network.NewState(rule);
            _network.Byte(from, ',', comma);
            _network.Call(comma, _json.Space, to);
        }

        void AddValue(int colon, GrammarRule value, int after)
        {
            var (space, begin) = (_network.NewState(rule), _network.NewState(rule));
            _network.Byte(colon, ':', space);
            _network.Call(space, _json.Space, begin);
            _network.Call(begin, value, after);
        }
    }

    private GrammarRule Except(List<string> names, string keyword, string path)
    {
        try
        {
            return PatternCompiler.Except(names, _network, _json);
        }
        catch (FormatException e)
        {
            throw Refused(keyword, path, $"what it leaves out is too long: {e.Message}");
        }
    }

    private static IEnumerable<string> Names(JsonElement properties) => properties.ValueKind == JsonValueKind.Object ? properties.EnumerateObject().Select(static p => p.Name) : [];

    private GrammarRule ArrayOf(JsonElement schema, string path)
    {
        var (least, most) = (Count(schema, "minItems", path) ?? 0, Count(schema, "maxItems", path) ?? int.MaxValue);
        var prefix = new List<GrammarRule>();
        if (schema.TryGetProperty("prefixItems", out var prefixes)) prefix.AddRange(Items(prefixes, path + "/prefixItems").Select((item, i) => RuleOf(item, $"{path}/prefixItems/{i}")));
        GrammarRule? rest = null;
        if (!schema.TryGetProperty("items", out var items)) rest = prefix.Count == 0 || least > prefix.Count ? _json.Value : null;
        else if (items.ValueKind == JsonValueKind.Array) throw Refused("items", path, "a list of schemas is 'prefixItems' since draft 2020-12");
        else if (items.ValueKind != JsonValueKind.False) rest = RuleOf(items, path + "/items");

        if (least > most) NoValue(path, "'minItems' is more than 'maxItems'");
        else if (rest is null && least > prefix.Count) NoValue(path, "'minItems' is more than the items of 'prefixItems', which none follow");
        var rule = _network.NewRule(nests: true, minimum: least, maximum: most);
        var end = _network.NewState(rule, isExit: true);
        var (open, first, close) = (_network.NewState(rule), _network.NewState(rule), _network.NewState(rule));
        _network.Byte(rule.Start, '[', open);
        _network.Call(open, _json.Space, first);
        _network.Byte(first, ']', end, EdgeFlags.NeedsMinimum);
        _network.Byte(close, ']', end);
        foreach (var item in prefix) first = Item(first, item, _network.NewState(rule));
        if (rest is not null)
        {
            var after = Item(first, rest, _network.NewState(rule));
            Loop(after, rest);
        }
        return rule;

        // Returns where a next item begins.
        int Item(int from, GrammarRule item, int after)
        {
            _network.Call(from, item, after, EdgeFlags.Counts);
            _network.Call(after, _json.Space, close, EdgeFlags.NeedsMinimum);
            var (comma, next) = (_network.NewState(rule), _network.NewState(rule));
            _network.Byte(after, ',', comma);
            _network.Call(comma, _json.Space, next);
            return next;
        }

        void Loop(int next, GrammarRule item)
        {
            var after = _network.NewState(rule);
            var again = Item(next, item, after);
            _network.States[again].Epsilons.Add(next);
        }
    }

    private GrammarRule StringOf(JsonElement schema, string path)
    {
        var (least, most) = (Count(schema, "minLength", path) ?? 0, Count(schema, "maxLength", path) ?? int.MaxValue);
        var pattern = schema.TryGetProperty("pattern", out var given) ? given.ValueKind == JsonValueKind.String ? given.GetString() : throw Invalid(path + "/pattern", "it is no string") : null;
        if (schema.TryGetProperty("format", out var format) && format.ValueKind == JsonValueKind.String && SchemaFormats.Strings.TryGetValue(format.GetString()!, out var known))
        {
            if (pattern is not null) throw Refused("pattern", path, $"it stands beside the format '{format}'");
            pattern = known;
        }
        else if (schema.TryGetProperty("contentEncoding", out var encoding) && encoding.ValueKind == JsonValueKind.String && encoding.ValueEquals("base64"))
        {
            pattern ??= SchemaFormats.Base64;
        }
        if (pattern is not null && SchemaFormats.Patterns.TryGetValue(pattern, out var narrower)) pattern = narrower;
        if (Denied(schema, path) is { } denied)
        {
            if (pattern is not null || least > 0 || most < int.MaxValue) throw Refused("not", path, "it stands beside 'pattern', 'format', 'minLength' or 'maxLength'");
            return Except(denied, "not", path);
        }
        if (least > most) NoValue(path, "'minLength' is more than 'maxLength'");
        if (pattern is null) return least == 0 && most == int.MaxValue ? _json.String : _json.NewString(least, most);
        if (_patterns.TryGetValue((pattern, least, most), out var compiled)) return compiled;
        try
        {
            return _patterns[(pattern, least, most)] = PatternCompiler.Compile(pattern, _network, _json, least, most);
        }
        catch (FormatException e)
        {
            throw Refused("pattern", path, e.Message);
        }
    }

    /// <summary>Strings that are denied; null where nothing is.</summary>
    private static List<string>? Denied(JsonElement schema, string path)
    {
        if (!schema.TryGetProperty("not", out var not)) return null;
        var values = not.ValueKind == JsonValueKind.Object && not.EnumerateObject().Count() == 1 ? ValuesOf(not, path + "/not") : null;
        if (values is null || values.Exists(static value => value.ValueKind != JsonValueKind.String)) throw Refused("not", path, "only strings can be denied, by an 'enum' or a 'const' in it");
        return values.ConvertAll(static value => value.GetString()!);
    }

    private GrammarRule NumberOf(JsonElement schema, string path, bool isInteger)
    {
        var decimals = 0;
        var least = Tightest(Bound("minimum", false), Bound("exclusiveMinimum", true), isLeast: true);
        var most = Tightest(Bound("maximum", false), Bound("exclusiveMaximum", true), isLeast: false);
        if (!isInteger && least.Value is null && most.Value is null) return _json.Number;
        var rule = isInteger ? NumberRange.OfIntegers(_network, least, most, schema.TryGetProperty("format", out var format) && format.ValueKind == JsonValueKind.String && SchemaFormats.Integers.TryGetValue(format.GetString()!, out var range) ? range : null)
            : NumberRange.OfNumbers(_network, least, most, decimals, _json);
        if (_network.States[rule.Start].Bytes.Count == 0) NoValue(path, $"no {(isInteger ? "integer" : "number")} lies between its bounds");
        return rule;

        NumberRange.Bound Bound(string keyword, bool isExclusive)
        {
            if (!schema.TryGetProperty(keyword, out var bound)) return default;
            if (bound.ValueKind != JsonValueKind.Number) throw Refused(keyword, path, "it is no number");
            if (!bound.TryGetDecimal(out var value) || Math.Abs(value) > 999_999_999_999_999_999) return (bound.GetDouble() > 0) == keyword.EndsWith("aximum", StringComparison.Ordinal) ? default : throw Refused(keyword, path, "numbers that large are not written");
            decimals = Math.Max(decimals, (value / 1.0000000000000000000000000000m).Scale);
            if (decimals > MaximumDecimals && !isInteger) throw Refused(keyword, path, $"it has more than {MaximumDecimals} decimals");
            return new NumberRange.Bound(value, isExclusive);
        }

        static NumberRange.Bound Tightest(NumberRange.Bound a, NumberRange.Bound b, bool isLeast)
        {
            if (a.Value is null || b.Value is null) return a.Value is null ? b : a;
            if (a.Value == b.Value) return b;
            return a.Value > b.Value == isLeast ? a : b;
        }
    }

    private GrammarRule Resolve(JsonElement reference, string path)
    {
        var (schema, target) = Find(reference, path);
        return RuleOf(schema, target);
    }

    private (JsonElement Schema, string Path) Find(JsonElement reference, string path)
    {
        if (reference.ValueKind != JsonValueKind.String || reference.GetString() is not { } text || (text != "#" && !text.StartsWith("#/", StringComparison.Ordinal)))
        {
            throw Refused("$ref", path, $"'{reference}' does not lead into this document: only '#' and '#/…' do");
        }
        var (schema, target) = (_root, "#");
        foreach (var part in text.Split('/').Skip(1))
        {
            var name = Uri.UnescapeDataString(part).Replace("~1", "/", StringComparison.Ordinal).Replace("~0", "~", StringComparison.Ordinal);
            var isThere = schema.ValueKind switch
            {
                JsonValueKind.Object => schema.TryGetProperty(name, out schema),
                JsonValueKind.Array when int.TryParse(name, NumberStyles.None, CultureInfo.InvariantCulture, out var index) && index < schema.GetArrayLength() => (schema = schema[index]).ValueKind != JsonValueKind.Undefined,
                _ => false,
            };
            if (!isThere) throw Invalid(path + "/$ref", $"'{text}' leads nowhere");
            target += "/" + Escape(name);
        }
        return (schema, target);
    }

    private JsonElement Target(JsonElement schema, string path)
    {
        for (var i = 0; i < 100 && schema.ValueKind == JsonValueKind.Object && schema.TryGetProperty("$ref", out var reference); i++) schema = Find(reference, path).Schema;
        return schema;
    }

    /// <summary>Whether two schemas surely have no document in common.</summary>
    private bool AreDisjoint(JsonElement a, JsonElement b, string path, int depth)
    {
        (a, b) = (Target(a, path), Target(b, path));
        if (a.ValueKind != JsonValueKind.Object || b.ValueKind != JsonValueKind.Object || depth > 8) return false;
        foreach (var branches in new[] { "anyOf", "oneOf", "allOf" })
        {
            if (a.TryGetProperty(branches, out var ofA)) return Items(ofA, path).All(branch => AreDisjoint(branch, b, path, depth + 1));
            if (b.TryGetProperty(branches, out var ofB)) return Items(ofB, path).All(branch => AreDisjoint(a, branch, path, depth + 1));
        }
        var (valuesA, valuesB) = (ValuesOf(a, path), ValuesOf(b, path));
        if (valuesA is not null && valuesB is not null) return !valuesA.Exists(x => valuesB.Exists(y => JsonElement.DeepEquals(x, y)));
        var (typesA, typesB) = (valuesA is null ? TypesOf(a, path) : null, valuesB is null ? TypesOf(b, path) : null);
        if (typesA is null) return !valuesA!.Exists(x => typesB!.Any(type => IsOf(x, type)));
        if (typesB is null) return !valuesB!.Exists(x => typesA.Any(type => IsOf(x, type)));
        var shared = typesA.Where(x => typesB.Any(y => x == y || (x, y) is ("number", "integer") or ("integer", "number"))).ToArray();
        if (shared.Length == 0) return true;
        // Objects differ by a property that both must have.
        if (shared is not ["object"] || !a.TryGetProperty("properties", out var propertiesA) || !b.TryGetProperty("properties", out var propertiesB)) return false;
        if (!a.TryGetProperty("required", out var requiredA) || !b.TryGetProperty("required", out var requiredB)) return false;
        var names = Items(requiredA, path).Select(static x => x.ToString()).Intersect(Items(requiredB, path).Select(static x => x.ToString()));
        return names.Any(name => propertiesA.TryGetProperty(name, out var x) && propertiesB.TryGetProperty(name, out var y) && AreDisjoint(x, y, path, depth + 1));
    }

    private static List<JsonElement>? ValuesOf(JsonElement schema, string path) =>
        schema.TryGetProperty("const", out var constant) ? [constant] : schema.TryGetProperty("enum", out var values) ? Items(values, path) : null;

    private static string[] TypesOf(JsonElement schema, string path)
    {
        if (schema.ValueKind != JsonValueKind.Object) return s_types;
        if (schema.TryGetProperty("type", out var type))
        {
            var types = (type.ValueKind == JsonValueKind.Array ? Items(type, path) : [type]).Select(static t => t.ToString()).ToArray();
            return Array.Find(types, static t => !s_types.Contains(t)) is { } unknown ? throw Invalid(path + "/type", $"'{unknown}' is no type") : types;
        }
        if (ValuesOf(schema, path) is { } values) return [.. s_types.Where(t => values.Exists(value => IsOf(value, t)))];
        var about = new List<string>();
        foreach (var (keywords, of) in new[] { (s_objectKeywords, "object"), (s_arrayKeywords, "array"), (s_stringKeywords, "string"), (s_numberKeywords, "number") })
        {
            if (keywords.Any(k => schema.TryGetProperty(k, out _))) about.Add(of);
        }
        return about.Count > 0 ? [.. about] : ["null", "boolean", "object", "array", "number", "string"];
    }

    private static bool IsOf(JsonElement value, string type) => value.ValueKind switch
    {
        JsonValueKind.Null => type == "null",
        JsonValueKind.True or JsonValueKind.False => type == "boolean",
        JsonValueKind.Object => type == "object",
        JsonValueKind.Array => type == "array",
        JsonValueKind.String => type == "string",
        _ => type == "number" || (type == "integer" && value.TryGetDecimal(out var number) && number == Math.Floor(number)),
    };

    private static List<JsonElement> Items(JsonElement list, string path) => list.ValueKind == JsonValueKind.Array ? [.. list.EnumerateArray()] : throw Invalid(path, "it is no array");

    private static int? Count(JsonElement schema, string keyword, string path)
    {
        if (!schema.TryGetProperty(keyword, out var value)) return null;
        if (value.ValueKind != JsonValueKind.Number || !value.TryGetDouble(out var count) || count < 0 || count != Math.Floor(count)) throw Invalid($"{path}/{keyword}", $"it is {value}, not a count");
        if (count <= MaximumCount) return (int)count;
        return keyword.StartsWith("max", StringComparison.Ordinal) ? MaximumCount : throw Refused(keyword, path, $"it is more than {MaximumCount}");
    }

    /// <summary>Remembers for a message what no value satisfies; whether documents need it is not known here.</summary>
    private void NoValue(string path, string why) => _network.Unmeetable ??= $"at {path} {why}, so that no value can be there";

    private static string Escape(string name) => name.Replace("~", "~0", StringComparison.Ordinal).Replace("/", "~1", StringComparison.Ordinal);

    private static NotSupportedException Refused(string keyword, string path, string why) => new($"JSON schema: '{keyword}' at {path} is not supported: {why}.");

    private static ArgumentException Invalid(string path, string why) => new($"JSON schema: {path} is not valid: {why}.");
}
