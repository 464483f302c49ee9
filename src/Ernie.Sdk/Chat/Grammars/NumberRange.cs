using System.Globalization;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>Rules of numbers between two bounds, digit by digit.</summary>
internal sealed class NumberRange
{
    private readonly GrammarNetwork _network;
    private readonly GrammarRule _rule;
    private readonly Dictionary<(int To, string Shape), int> _anything = [];
    private readonly int _end;

    private NumberRange(GrammarNetwork network)
    {
        _network = network;
        _rule = network.NewRule();
        _end = network.NewState(_rule, isExit: true);
    }

    /// <summary>A bound, or none; <paramref name="IsExclusive"/> leaves its value out.</summary>
    public readonly record struct Bound(decimal? Value, bool IsExclusive);

    /// <summary>
    /// Integers of at most 18 digits. On a side without a bound they stay within <see cref="int"/>, which most readers of an integer take, or within the format; where the other bound lies beyond it,
    /// they have 18 digits.
    /// </summary>
    /// <param name="network">Gets the rule.</param>
    /// <param name="least">Lower bound.</param>
    /// <param name="most">Upper bound.</param>
    /// <param name="format">Range of the type that the schema names; null where it names none.</param>
    public static GrammarRule OfIntegers(GrammarNetwork network, Bound least, Bound most, (decimal Least, decimal Most)? format = null)
    {
        const decimal Limit = 999_999_999_999_999_999;
        var (smallest, largest) = format ?? (least.Value > int.MaxValue || most.Value < int.MinValue ? (-Limit, Limit) : (int.MinValue, int.MaxValue));
        (smallest, largest) = (Math.Max(-Limit, smallest), Math.Min(Limit, largest));
        var low = least.Value is { } l ? Math.Max(format is null ? -Limit : smallest, least.IsExclusive ? Math.Floor(l) + 1 : Math.Ceiling(l)) : smallest;
        var high = most.Value is { } m ? Math.Min(format is null ? Limit : largest, most.IsExclusive ? Math.Ceiling(m) - 1 : Math.Floor(m)) : largest;
        var range = new NumberRange(network);
        range.Add(low, high, 0);
        return range._rule;
    }

    /// <summary>Decimal numbers without exponents. Bounds have at most so many decimals as <paramref name="decimals"/> says.</summary>
    public static GrammarRule OfNumbers(GrammarNetwork network, Bound least, Bound most, int decimals, JsonRules json)
    {
        const decimal Limit = 999_999_999_999_999;
        var range = new NumberRange(network);
        var further = json.Digits(range._rule, JsonRules.NumberDigits - 3 - decimals, static _ => { });
        // Between exclusive bounds numbers may have more decimals than both.
        var places = decimals + (least.IsExclusive || most.IsExclusive ? 2 : 0);
        decimal scale = 1;
        for (var place = 0; place <= places; place++, scale *= 10)
        {
            var limit = Limit * Math.Min(scale, 1_000_000);
            var low = least.Value is { } l ? Clamp(least.IsExclusive ? Math.Floor(l * scale) + 1 : Math.Ceiling(l * scale), limit) : -limit;
            var high = most.Value is { } m ? Clamp(most.IsExclusive ? Math.Ceiling(m * scale) - 1 : Math.Floor(m * scale), limit) : limit;
            range.Add(low, high, place);
            if (place < places) continue;
            // More digits lead away from zero: not beyond a bound.
            range.Add(Math.Max(low, 0), high - 1, place, further);
            range.AddNegative(Math.Max(0, -high), -low - 1, place, further);
        }
        return range._rule;
    }

    private static decimal Clamp(decimal value, decimal limit) => Math.Clamp(value, -limit, limit);

    /// <summary>Numbers low to high in units of a decimal place; <paramref name="further"/>: what reads more decimals.</summary>
    private void Add(decimal low, decimal high, int places, int? further = null)
    {
        if (high >= 0 && low <= high) AddMagnitudes(_rule.Start, Math.Max(low, 0), high, places, further);
        if (low < 0 && further is null) AddNegative(Math.Max(1, -high), -low, places, null);
    }

    private void AddNegative(decimal low, decimal high, int places, int? further)
    {
        if (low > high) return;
        var negative = _network.NewState(_rule);
        _network.Byte(_rule.Start, '-', negative);
        AddMagnitudes(negative, low, high, places, further);
    }

    private void AddMagnitudes(int from, decimal low, decimal high, int places, int? further)
    {
        var end = _end;
        if (further is { } more)
        {
            // The first further decimal; the rest are the chain's.
            end = _network.NewState(_rule);
            if (places > 0) _network.Bytes(end, (byte)'0', (byte)'9', more);
            else
            {
                var fraction = _network.NewState(_rule);
                _network.Byte(end, '.', fraction);
                _network.Bytes(fraction, (byte)'0', (byte)'9', more);
            }
        }
        var (first, last) = (Digits(low, places), Digits(high, places));
        for (var length = first.Length; length <= last.Length; length++)
        {
            var from0 = length == first.Length ? first : Shape("1".PadRight(length - Point(places), '0'), places);
            var to9 = length == last.Length ? last : Shape(new string('9', length - Point(places)), places);
            Between(from, from0, to9, end);
        }
    }

    private static int Point(int places) => places > 0 ? 1 : 0;

    private static string Shape(string digits, int places) => places == 0 ? digits : digits[..^places] + "." + digits[^places..];

    private static string Digits(decimal value, int places) => Shape(value.ToString("F0", CultureInfo.InvariantCulture).PadLeft(places + 1, '0'), places);

    /// <summary>Texts of one length between two, whose point stands at one place.</summary>
    private void Between(int from, string low, string high, int to)
    {
        if (low.Length == 0)
        {
            _network.States[from].Epsilons.Add(to);
            return;
        }
        var (first, last) = (low[0], high[0]);
        if (first == last)
        {
            var next = _network.NewState(_rule);
            _network.Byte(from, first, next);
            Between(next, low[1..], high[1..], to);
            return;
        }
        var (zeros, nines) = (Fill(low[1..], '0'), Fill(low[1..], '9'));
        if (low[1..] != zeros)
        {
            Between(from, low, first + nines, to);
            first++;
        }
        if (high[1..] != nines)
        {
            Between(from, last + zeros, high, to);
            last--;
        }
        if (first <= last) _network.Bytes(from, (byte)first, (byte)last, Anything(zeros, to));
    }

    private static string Fill(string shape, char digit) => string.Concat(shape.Select(c => c == '.' ? '.' : digit));

    private int Anything(string shape, int to)
    {
        if (shape.Length == 0) return to;
        if (_anything.TryGetValue((to, shape), out var state)) return state;
        state = _network.NewState(_rule);
        var next = Anything(shape[1..], to);
        if (shape[0] == '.') _network.Byte(state, '.', next);
        else _network.Bytes(state, (byte)'0', (byte)'9', next);
        return _anything[(to, shape)] = state;
    }
}
