using System.Text;
using System.Text.Json;

namespace Ernie.Sdk.Chat.Parsing;

/// <summary>
/// Splits the output of a thinking model into reasoning, answer and tool calls as it comes:
/// <c>{reasoning}\n&lt;/think&gt;\n&lt;response&gt;\n{answer}\n&lt;/response&gt;\n&lt;tool_call&gt;\n{"name": …, "arguments": …}\n&lt;/tool_call&gt;</c>, where every tag may be missing.
/// The parts' texts do not depend on how the output is cut into pieces. Not safe for concurrent use.
/// </summary>
internal sealed class OutputParser
{
    public const string ThinkBegin = "<think>";
    public const string ThinkEnd = "</think>";
    public const string ResponseBegin = "<response>";
    public const string ResponseEnd = "</response>";
    public const string CallBegin = "<tool_call>";
    public const string CallEnd = "</tool_call>";

    /// <summary>What a model writes around the parts of its output.</summary>
    public static IReadOnlyList<string> Tags { get; } = [ThinkBegin, ThinkEnd, ResponseBegin, ResponseEnd, CallBegin, CallEnd];

    private readonly List<OutputPart> _parts = [];
    private readonly StringBuilder _call = new();
    private State _state;
    private string _held = "";
    private bool _isInString;
    private bool _isEscaped;

    /// <param name="startsInReasoning">Whether the prompt ends with the begin of the reasoning.</param>
    public OutputParser(bool startsInReasoning) => _state = startsInReasoning ? State.ReasoningBegin : State.Begin;

    private enum State
    {
        /// <summary>Nothing has come: reasoning if its tag does, else as <see cref="Between"/>.</summary>
        Begin,
        /// <summary>Within reasoning, whose tag the model may repeat.</summary>
        ReasoningBegin,
        /// <summary>Newlines after the tag.</summary>
        ReasoningNewlines,
        Reasoning,
        /// <summary>After a closing tag.</summary>
        Between,
        ResponseNewlines,
        Response,
        /// <summary>An answer without tags around it.</summary>
        Bare,
        Call,
    }

    /// <summary>Whether some of the output waits for what follows.</summary>
    public bool HoldsBack => _held.Length > 0;

    public bool IsReasoning => _state is State.ReasoningBegin or State.ReasoningNewlines or State.Reasoning;

    /// <summary>Takes the next piece of output and returns what is certain by now.</summary>
    public IReadOnlyList<OutputPart> Append(string text) => Read(text, isLast: false);

    /// <summary>The output ends: what was held back is what it looks like.</summary>
    public IReadOnlyList<OutputPart> Finish() => Read("", isLast: true);

    private OutputPart[] Read(string text, bool isLast)
    {
        _parts.Clear();
        var rest = _held + text;
        _held = "";
        while (Step(ref rest, isLast))
        {
        }
        return [.. _parts];
    }

    /// <summary>Reads up to the next change of state; false where more output is needed.</summary>
    private bool Step(ref string rest, bool isLast)
    {
        switch (_state)
        {
            case State.Begin:
                rest = rest.TrimStart('\n');
                return Choose(ref rest, isLast, (ThinkBegin, State.ReasoningNewlines), (ResponseBegin, State.ResponseNewlines), (CallBegin, State.Call), ("", State.Bare));
            case State.ReasoningBegin:
                return Choose(ref rest, isLast, (ThinkBegin, State.ReasoningNewlines), ("", State.Reasoning));
            case State.ReasoningNewlines:
                return SkipNewlines(ref rest, State.Reasoning);
            case State.Reasoning:
                return ReadText(ref rest, isLast, ThinkEnd, State.Between, static text => new ReasoningPart(text));
            case State.Between:
                rest = rest.TrimStart('\n');
                return Choose(ref rest, isLast, (ResponseBegin, State.ResponseNewlines), (CallBegin, State.Call), ("", State.Bare));
            case State.ResponseNewlines:
                return SkipNewlines(ref rest, State.Response);
            case State.Response:
                return ReadText(ref rest, isLast, ResponseEnd, State.Between, static text => new AnswerPart(text));
            case State.Bare:
                return ReadText(ref rest, isLast, CallBegin, State.Call, static text => new AnswerPart(text));
            default:
                return ReadCall(ref rest, isLast);
        }
    }

    /// <summary>Goes on with the tag that the output begins with; the last choice, without a tag, is for everything else.</summary>
    private bool Choose(ref string rest, bool isLast, params ReadOnlySpan<(string Tag, State Next)> choices)
    {
        if (rest.Length == 0) return false;
        foreach (var (tag, next) in choices)
        {
            if (rest.StartsWith(tag, StringComparison.Ordinal))
            {
                rest = rest[tag.Length..];
                _state = next;
                return true;
            }
            if (!isLast && tag.StartsWith(rest, StringComparison.Ordinal))
            {
                _held = rest;
                return false;
            }
        }
        return false;
    }

    private bool SkipNewlines(ref string rest, State next)
    {
        rest = rest.TrimStart('\n');
        if (rest.Length == 0) return false;
        _state = next;
        return true;
    }

    /// <summary>Text up to a closing tag, whose own newline is not part of it.</summary>
    private bool ReadText(ref string rest, bool isLast, string tag, State next, Func<string, OutputPart> part)
    {
        var end = rest.IndexOf(tag, StringComparison.Ordinal);
        var length = end >= 0 ? (end > 0 && rest[end - 1] == '\n' ? end - 1 : end) : isLast ? rest.Length : rest.Length - HeldBack(rest, tag);
        if (length > 0) _parts.Add(part(rest[..length]));
        if (end < 0)
        {
            _held = rest[length..];
            return false;
        }
        rest = rest[(end + tag.Length)..];
        _state = next;
        return true;
    }

    /// <summary>Length of the longest end of the text that may begin the tag, with the newline before it.</summary>
    private static int HeldBack(string text, string tag)
    {
        for (var length = Math.Min(tag.Length, text.Length); length > 0; length--)
        {
            var end = text.AsSpan(text.Length - length);
            if (tag.AsSpan().StartsWith(end) || (end[0] == '\n' && tag.AsSpan().StartsWith(end[1..]))) return length;
        }
        return 0;
    }

    /// <summary>A call ends at its closing tag, unless that stands in a string of its JSON.</summary>
    private bool ReadCall(ref string rest, bool isLast)
    {
        for (var i = 0; i < rest.Length; i++)
        {
            var c = rest[i];
            _call.Append(c);
            if (_isEscaped) _isEscaped = false;
            else if (_isInString && c == '\\') _isEscaped = true;
            else if (c == '"') _isInString = !_isInString;
            else if (c == '>' && !_isInString && EndsWithTag())
            {
                rest = rest[(i + 1)..];
                Complete(_call.ToString(0, _call.Length - CallEnd.Length));
                return true;
            }
        }
        rest = "";
        if (!isLast) return false;

        // A quote that is never closed would hide the tag: then the first one counts.
        var body = _call.ToString();
        var end = body.IndexOf(CallEnd, StringComparison.Ordinal);
        if (end >= 0)
        {
            rest = body[(end + CallEnd.Length)..];
            Complete(body[..end]);
            return true;
        }
        _parts.Add(new BrokenCallPart(CallBegin + body, "the output ends within it"));
        Reset(State.Between);
        return false;
    }

    private bool EndsWithTag()
    {
        if (_call.Length < CallEnd.Length) return false;
        for (var i = 0; i < CallEnd.Length; i++)
        {
            if (_call[_call.Length - CallEnd.Length + i] != CallEnd[i]) return false;
        }
        return true;
    }

    private void Complete(string body)
    {
        var source = CallBegin + body + CallEnd;
        _parts.Add(TryParse(body, out var name, out var arguments, out var reason) ? new CallPart(name, arguments, source) : new BrokenCallPart(source, reason));
        Reset(State.Between);
    }

    private void Reset(State next)
    {
        _call.Clear();
        _isInString = _isEscaped = false;
        _state = next;
    }

    private static bool TryParse(string body, out string name, out JsonElement arguments, out string reason)
    {
        (name, arguments, reason) = ("", default, "");
        try
        {
            using var document = JsonDocument.Parse(body);
            var call = document.RootElement;
            if (call.ValueKind != JsonValueKind.Object) reason = "it is not a JSON object";
            else if (!call.TryGetProperty("name", out var given) || given.ValueKind != JsonValueKind.String || given.GetString() is not { Length: > 0 } text) reason = "it has no name";
            else if (!TryGetArguments(call, out arguments)) reason = "its arguments are not a JSON object";
            else name = text;
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            // The second is half of a surrogate pair in an escape.
            reason = "it is not valid JSON: " + e.Message;
        }
        return reason.Length == 0;
    }

    /// <summary>An object, or a string that holds one; nothing, null or an empty string mean no arguments.</summary>
    private static bool TryGetArguments(JsonElement call, out JsonElement arguments)
    {
        if (!call.TryGetProperty("arguments", out arguments) || arguments.ValueKind == JsonValueKind.Null) arguments = Parse("{}");
        else if (arguments.ValueKind == JsonValueKind.String) arguments = Parse(arguments.GetString() is { Length: > 0 } text ? text : "{}");
        else arguments = arguments.Clone();
        return arguments.ValueKind == JsonValueKind.Object;

        static JsonElement Parse(string json)
        {
            using var document = JsonDocument.Parse(json);
            return document.RootElement.Clone();
        }
    }
}
