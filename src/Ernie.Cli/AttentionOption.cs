using System.CommandLine;
using System.Globalization;
using Ernie.Sdk;

namespace Ernie.Cli;

/// <summary>How options name sparse attention: <c>dense</c>, <c>plas</c> for the library's defaults, or the limits of top-k, <c>LEFT/RIGHT</c> of prompts and, after another slash, of decoded tokens.</summary>
internal static class AttentionOption
{
    public const string Help = "dense|plas|LEFT/RIGHT[/LEFT/RIGHT]";

    public static Option<string> Create(string value)
    {
        var option = new Option<string>("--attention") { Description = "Blocks of 128 cached tokens that a query reads: all of them, PLAS with its defaults, or top-k limits of prompts and of decode.", DefaultValueFactory = _ => value, HelpName = Help };
        option.Validators.Add(static result =>
        {
            if (result.Tokens.Count == 1 && Parse(result.Tokens[0].Value) is null) result.AddError(Problem("--attention", result.Tokens[0].Value));
        });
        return option;
    }

    public static string Problem(string option, string value) => $"{option} takes {Help} with 0 < LEFT <= RIGHT; it was '{value}'.";

    /// <summary>Null where the text names nothing.</summary>
    public static ErnieSparseAttention? Parse(string text)
    {
        if (text == "dense") return ErnieSparseAttention.Dense;
        if (text == "plas") return new ErnieSparseAttention();
        var numbers = new List<int>();
        foreach (var part in text.Split('/'))
        {
            if (!int.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out var number) || number is < 1 or > 1 << 20) return null;
            numbers.Add(number);
        }
        if (numbers.Count is not (2 or 4) || numbers[0] > numbers[1] || numbers[^2] > numbers[^1]) return null;
        return new ErnieSparseAttention { EncoderTopKLeft = numbers[0], EncoderTopKRight = numbers[1], DecoderTopKLeft = numbers[^2], DecoderTopKRight = numbers[^1] };
    }
}
