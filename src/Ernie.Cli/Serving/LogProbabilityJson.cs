using System.Globalization;
using System.Text;
using System.Text.Json;
using Ernie.Sdk;

namespace Ernie.Cli.Serving;

/// <summary>Tokens' probabilities in OpenAI's two shapes. Natural logarithms; a token's bytes are its own, also where they are part of a character.</summary>
internal static class LogProbabilityJson
{
    /// <summary>Of chat completions: <c>{"content": [{"token", "logprob", "bytes", "top_logprobs"}], "refusal": null}</c>; null where none were asked for.</summary>
    public static void WriteChat(Utf8JsonWriter json, IReadOnlyCollection<ErnieTokenLogProbability>? tokens, ErnieTokenizer tokenizer)
    {
        if (tokens is null)
        {
            json.WriteNull("logprobs");
            return;
        }
        json.WriteStartObject("logprobs");
        json.WriteStartArray("content");
        foreach (var token in tokens)
        {
            WriteToken(token);
            json.WriteStartArray("top_logprobs");
            foreach (var top in token.Top)
            {
                WriteToken(top);
                json.WriteEndObject();
            }
            json.WriteEndArray();
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteNull("refusal");
        json.WriteEndObject();

        void WriteToken(ErnieTokenLogProbability token)
        {
            json.WriteStartObject();
            json.WriteString("token", token.Token);
            json.WriteNumber("logprob", token.LogProbability);
            json.WriteStartArray("bytes");
            foreach (var value in BytesOf(token.TokenId, token.Token, tokenizer)) json.WriteNumberValue(value);
            json.WriteEndArray();
        }
    }

    /// <summary>Of text completions: <c>{"tokens", "token_logprobs", "top_logprobs", "text_offset"}</c>; null where none were asked for.</summary>
    public static void WriteText(Utf8JsonWriter json, IReadOnlyList<TextToken>? tokens, ErnieTokenizer tokenizer)
    {
        if (tokens is null)
        {
            json.WriteNull("logprobs");
            return;
        }
        json.WriteStartObject("logprobs");
        json.WriteStartArray("tokens");
        foreach (var token in tokens) json.WriteStringValue(NameOf(token.Id, tokenizer));
        json.WriteEndArray();
        json.WriteStartArray("token_logprobs");
        foreach (var token in tokens) json.WriteNumberValue(token.LogProbability);
        json.WriteEndArray();
        json.WriteStartArray("top_logprobs");
        foreach (var token in tokens)
        {
            // The chosen one is always among them; of two tokens with one name the likelier.
            json.WriteStartObject();
            foreach (var (name, value) in token.Top.Append((token.Id, token.LogProbability)).Select(top => (Name: NameOf(top.Id, tokenizer), Value: top.LogProbability)).DistinctBy(static top => top.Name)) json.WriteNumber(name, value);
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteStartArray("text_offset");
        foreach (var token in tokens) json.WriteNumberValue(token.Offset);
        json.WriteEndArray();
        json.WriteEndObject();
    }

    private static byte[] BytesOf(int id, string text, ErnieTokenizer tokenizer) => tokenizer.TryGetByte(id, out var value) ? [value] : Encoding.UTF8.GetBytes(text);

    /// <summary>A token's text; of a byte within a character <c>bytes:\xe4</c>.</summary>
    private static string NameOf(int id, ErnieTokenizer tokenizer) =>
        tokenizer.TryGetByte(id, out var value) && value >= 0x80 ? string.Create(CultureInfo.InvariantCulture, $"bytes:\\x{value:x2}") : tokenizer.Decode([id], skipSpecialTokens: false);
}

/// <summary>A token of a text completion.</summary>
/// <param name="Id">Its id.</param>
/// <param name="LogProbability">How likely it was.</param>
/// <param name="Top">The likeliest tokens at its place.</param>
/// <param name="Offset">Where its text begins in the answer, in characters (UTF-16 units).</param>
internal sealed record TextToken(int Id, float LogProbability, (int Id, float LogProbability)[] Top, int Offset);
