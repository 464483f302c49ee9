using Ernie.Sdk.Chat.Parsing;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>Any output of a model that writes tags, up to the tag of a call as <see cref="OutputParser"/> reads it; it may end anywhere before.</summary>
internal sealed class FreeText
{
    private const char TagBegin = '<';

    private readonly GrammarNetwork _network;
    private readonly GrammarRule _rule;
    private readonly int _call;
    private readonly Dictionary<(Part Part, string Matched), int> _states = [];

    private FreeText(GrammarNetwork network, Part first)
    {
        _network = network;
        _rule = network.NewRule(isText: true, mayEnd: true);
        _call = network.NewState(_rule, isExit: true);
        StateOf(first, "");
    }

    public enum Part
    {
        /// <summary>Before anything, where reasoning may begin.</summary>
        Begin,
        /// <summary>After a closing tag.</summary>
        Between,
        Reasoning,
        Response,
        /// <summary>An answer without tags around it.</summary>
        Bare,
    }

    /// <param name="network">Gets the rule.</param>
    /// <param name="first">What it begins in.</param>
    public static GrammarRule Rule(GrammarNetwork network, Part first) => new FreeText(network, first)._rule;

    /// <summary>A state, with how much of a tag has come.</summary>
    private int StateOf(Part part, string matched)
    {
        if (_states.TryGetValue((part, matched), out var known)) return known;
        var state = _states[(part, matched)] = _states.Count == 0 ? _rule.Start : _network.NewState(_rule);
        for (var low = 0; low < 256;)
        {
            var target = After(part, matched, (char)low);
            var high = low;
            while (high < 255 && After(part, matched, (char)(high + 1)) == target) high++;
            _network.Bytes(state, (byte)low, (byte)high, target);
            low = high + 1;
        }
        return state;
    }

    private int After(Part part, string matched, char value)
    {
        var text = matched + value;
        foreach (var (tag, next) in Tags(part))
        {
            if (tag == text) return next is { } other ? StateOf(other, "") : _call;
            if (tag.StartsWith(text, StringComparison.Ordinal)) return StateOf(part, text);
        }
        if (part is Part.Begin or Part.Between)
        {
            if (text == "\n") return StateOf(part, "");
            part = Part.Bare;
        }
        // No tag has the first character of one within it.
        return StateOf(part, value == TagBegin ? $"{TagBegin}" : "");
    }

    /// <summary>Tags that are read in a part of the output, and what follows them; null is a call.</summary>
    private static (string Tag, Part? Next)[] Tags(Part part) => part switch
    {
        Part.Begin => [(OutputParser.ThinkBegin, Part.Reasoning), (OutputParser.ResponseBegin, Part.Response), (OutputParser.CallBegin, null)],
        Part.Between => [(OutputParser.ResponseBegin, Part.Response), (OutputParser.CallBegin, null)],
        Part.Reasoning => [(OutputParser.ThinkEnd, Part.Between)],
        Part.Response => [(OutputParser.ResponseEnd, Part.Between)],
        _ => [(OutputParser.CallBegin, null)],
    };
}
