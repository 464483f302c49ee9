using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.Json;
using System.Text.Unicode;
using Microsoft.AspNetCore.Http;

namespace Ernie.Cli.Serving;

/// <summary>An object of a request's JSON. Each field is asked for by name and kind; one that nobody asked for is refused, so that nothing a client wants is ignored in silence.</summary>
internal sealed class RequestObject
{
    private readonly JsonElement _json;
    private readonly string _path;
    private readonly HashSet<string> _known = new(StringComparer.Ordinal);

    public RequestObject(JsonElement json, string path = "")
    {
        if (json.ValueKind != JsonValueKind.Object) throw Wrong(path, "an object", json);
        (_json, _path) = (json, path);
    }

    public static async Task<RequestObject> ReadAsync(HttpContext context)
    {
        // A form that another web page posts here has another type, and browsers ask before they send this one.
        if (!context.Request.HasJsonContentType()) throw new ApiException(StatusCodes.Status415UnsupportedMediaType, "The header Content-Type must be application/json.");
        try
        {
            // Lives as long as the request: no buffer is given back while fields are read.
            using var document = await JsonDocument.ParseAsync(context.Request.Body, cancellationToken: context.RequestAborted).ConfigureAwait(false);
            // Reading such a text throws, wherever that happens.
            if (UnreadableText(document.RootElement) is { } path)
                throw new ApiException(StatusCodes.Status400BadRequest, $"{(path.Length == 0 ? "The body" : $"'{path}'")} is no Unicode text: it has half of a surrogate pair, or bytes that are no UTF-8.", path.Length == 0 ? null : path, "invalid_value");
            return new RequestObject(document.RootElement.Clone());
        }
        catch (JsonException e)
        {
            throw new ApiException(StatusCodes.Status400BadRequest, $"The body is no JSON: {e.Message}");
        }
    }

    /// <summary>Where JSON has a text or a name that no string can hold: half of a surrogate pair, or bytes that are no UTF-8. Null where it has none.</summary>
    /// <returns>A path from <paramref name="json"/> on; of a name that cannot be read, the path of its object.</returns>
    public static string? UnreadableText(JsonElement json)
    {
        // Only an escape can be half of a pair.
        var raw = JsonMarshal.GetRawUtf8Value(json);
        return Utf8.IsValid(raw) && raw.IndexOf(@"\u"u8) < 0 ? null : Find(json)?.TrimStart('.');

        static string? Find(JsonElement json)
        {
            if (json.ValueKind == JsonValueKind.String) return IsReadable(json) ? null : "";
            if (json.ValueKind == JsonValueKind.Array)
            {
                var i = 0;
                foreach (var item in json.EnumerateArray())
                {
                    if (Find(item) is { } path) return $"[{i}]{path}";
                    i++;
                }
            }
            if (json.ValueKind == JsonValueKind.Object)
            {
                foreach (var member in json.EnumerateObject())
                {
                    if (!HasReadableName(member)) return "";
                    if (Find(member.Value) is { } path) return $".{member.Name}{path}";
                }
            }
            return null;
        }

        static bool IsReadable(JsonElement text)
        {
            try
            {
                return text.GetString() is not null;
            }
            catch (InvalidOperationException)
            {
                return false;
            }
        }

        static bool HasReadableName(JsonProperty member)
        {
            try
            {
                return member.Name is not null;
            }
            catch (InvalidOperationException)
            {
                return false;
            }
        }
    }

    /// <summary>Names of all fields, each once.</summary>
    public IEnumerable<string> Names => _json.EnumerateObject().Select(static member => member.Name).Distinct(StringComparer.Ordinal);

    public string PathOf(string name) => _path.Length == 0 ? name : $"{_path}.{name}";

    /// <summary>A field, or null where it is missing or null.</summary>
    public JsonElement? Take(string name)
    {
        _known.Add(name);
        return _json.TryGetProperty(name, out var value) && value.ValueKind != JsonValueKind.Null ? value : null;
    }

    public string? Text(string name) => Take(name) is not { } value ? null : value.ValueKind == JsonValueKind.String ? value.GetString() : throw Wrong(PathOf(name), "a string", value);

    public string RequiredText(string name) => Text(name) ?? throw Missing(name);

    /// <summary>A text that names something.</summary>
    public string RequiredName(string name) => RequiredText(name) is var text && !string.IsNullOrWhiteSpace(text) ? text : throw Wrong(name, "a name");

    public bool? Flag(string name) => Take(name) is not { } value ? null : value.ValueKind is JsonValueKind.True or JsonValueKind.False ? value.GetBoolean() : throw Wrong(PathOf(name), "true or false", value);

    public float? Number(string name, float least, float most) =>
        Take(name) is not { } value ? null
        : value.ValueKind == JsonValueKind.Number && value.TryGetSingle(out var number) && number >= least && number <= most ? number
        : throw Wrong(PathOf(name), string.Create(CultureInfo.InvariantCulture, $"a number between {least} and {most}"), value);

    public long? Integer(string name, long least = long.MinValue, long most = long.MaxValue) =>
        Take(name) is not { } value ? null
        : value.ValueKind == JsonValueKind.Number && value.TryGetInt64(out var number) && number >= least && number <= most ? number
        : throw Wrong(PathOf(name), least == long.MinValue ? "an integer" : most is long.MaxValue or int.MaxValue ? $"an integer of at least {least}" : $"an integer between {least} and {most}", value);

    public RequestObject? Object(string name) => Take(name) is { } value ? new RequestObject(value, PathOf(name)) : null;

    public IReadOnlyList<RequestObject>? Objects(string name) =>
        Take(name) is not { } value ? null
        : value.ValueKind == JsonValueKind.Array ? [.. value.EnumerateArray().Select((item, i) => new RequestObject(item, $"{PathOf(name)}[{i}]"))]
        : throw Wrong(PathOf(name), "an array", value);

    /// <summary>A string or an array of strings.</summary>
    public IList<string>? Texts(string name) => Take(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.String } one => [one.GetString()!],
        { ValueKind: JsonValueKind.Array } many when many.EnumerateArray().All(static item => item.ValueKind == JsonValueKind.String) => [.. many.EnumerateArray().Select(static item => item.GetString()!)],
        { } other => throw Wrong(PathOf(name), "a string or an array of strings", other),
    };

    /// <summary>A field that may stand there with the value that asks for nothing.</summary>
    public void Only(string name, string neutral)
    {
        if (Take(name) is { } value && value.GetRawText().Replace(" ", "", StringComparison.Ordinal) != neutral)
            throw new ApiException(StatusCodes.Status400BadRequest, $"'{PathOf(name)}' is not supported by this server. Leave it out{(neutral.Length > 0 ? $", or send {neutral}" : "")}.", PathOf(name), "unsupported");
    }

    /// <summary>Fields that do not change an answer.</summary>
    public void Accept(params ReadOnlySpan<string> names)
    {
        foreach (var name in names) _known.Add(name);
    }

    public void End()
    {
        foreach (var field in _json.EnumerateObject())
        {
            if (!_known.Contains(field.Name)) throw new ApiException(StatusCodes.Status400BadRequest, $"'{PathOf(field.Name)}' is unknown to this server.", PathOf(field.Name), "unknown_field");
        }
    }

    public ApiException Missing(string name) => new(StatusCodes.Status400BadRequest, $"'{PathOf(name)}' is missing.", PathOf(name), "missing_field");

    public ApiException Wrong(string name, string expected) => Wrong(PathOf(name), expected, Take(name)!.Value);

    private static ApiException Wrong(string path, string expected, JsonElement value)
    {
        var text = value.GetRawText();
        if (text.Length > 60) text = text[..(char.IsHighSurrogate(text[59]) ? 59 : 60)] + "…";
        return new ApiException(StatusCodes.Status400BadRequest, $"{(path.Length == 0 ? "The body" : $"'{path}'")} must be {expected}; it is {text}.", path.Length == 0 ? null : path, "invalid_value");
    }
}
