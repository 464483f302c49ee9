using System.Text.Json;

namespace Ernie.Cli;

/// <summary>One line of input, with its number for messages.</summary>
internal readonly record struct JsonLine(string Source, int Number, string Content)
{
    /// <summary>The array <c>ids</c> of the line's object.</summary>
    /// <exception cref="InvalidDataException">The line is no such object; the message names it.</exception>
    public IReadOnlyList<int> Ids() => Read("ids", JsonValueKind.Array, "an array of token ids", static value => (IReadOnlyList<int>)[.. value.EnumerateArray().Select(static id => id.GetInt32())]);

    /// <summary>The string <c>text</c> of the line's object.</summary>
    /// <exception cref="InvalidDataException">The line is no such object; the message names it.</exception>
    public string Text() => Read("text", JsonValueKind.String, "a string", static value => value.GetString()!);

    public InvalidDataException Error(string message, Exception? inner = null) => new($"{Source}, line {Number}: {message}", inner);

    private T Read<T>(string key, JsonValueKind kind, string what, Func<JsonElement, T> read)
    {
        try
        {
            using var document = JsonDocument.Parse(Content);
            if (document.RootElement.ValueKind != JsonValueKind.Object || !document.RootElement.TryGetProperty(key, out var value)) throw Error($"expected an object with the key \"{key}\".");
            if (value.ValueKind != kind) throw Error($"\"{key}\" must be {what}.");
            return read(value);
        }
        catch (JsonException e)
        {
            throw Error($"this is no JSON: {e.Message.ReplaceLineEndings(" ")}", e);
        }
        catch (Exception e) when (e is FormatException or InvalidOperationException or OverflowException)
        {
            throw Error($"\"{key}\" must be {what}.", e);
        }
    }
}
