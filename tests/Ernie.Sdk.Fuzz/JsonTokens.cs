using System.Text.Json;

namespace Ernie.Sdk.Fuzz;

/// <summary>Where names and values lie in a JSON text.</summary>
internal sealed class JsonTokens
{
    private readonly List<(int Start, int Length, bool IsName)> _tokens = [];

    public JsonTokens(byte[] json)
    {
        var reader = new Utf8JsonReader(json);
        while (reader.Read())
        {
            var start = (int)reader.TokenStartIndex;
            switch (reader.TokenType)
            {
                case JsonTokenType.PropertyName: _tokens.Add((start, reader.ValueSpan.Length + 2, true)); break;
                case JsonTokenType.String: _tokens.Add((start, reader.ValueSpan.Length + 2, false)); break;
                case JsonTokenType.StartArray or JsonTokenType.StartObject:
                    var inner = reader;
                    inner.Skip();
                    _tokens.Add((start, (int)inner.BytesConsumed - start, false));
                    break;
                case JsonTokenType.Number or JsonTokenType.True or JsonTokenType.False or JsonTokenType.Null: _tokens.Add((start, reader.ValueSpan.Length, false)); break;
                default: break;
            }
        }
    }

    public int Count => _tokens.Count;
    public (int Start, int Length, bool IsName) this[int index] => _tokens[index];
}
