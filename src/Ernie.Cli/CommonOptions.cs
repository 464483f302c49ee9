using System.CommandLine;
using System.Globalization;
using Ernie.Sdk;
using Microsoft.Extensions.Logging;

namespace Ernie.Cli;

/// <summary>Options that several commands share, spelled once.</summary>
internal static class CommonOptions
{
    public static Option<LogLevel> LogLevel() => new("--log-level")
    {
        Description = "Least level of log lines on standard error.",
        HelpName = "trace|debug|information|warning|error|none",
        DefaultValueFactory = static _ => Microsoft.Extensions.Logging.LogLevel.Warning,
    };

    public static Option<string> Precision(string name, string what) => new Option<string>(name) { Description = $"Precision of {what}.", DefaultValueFactory = static _ => "bf16" }.AcceptOnlyFromAmong("bf16", "fp32");

    public static ErniePrecision PrecisionOf(string text) => text == "fp32" ? ErniePrecision.Float32 : ErniePrecision.BFloat16;

    /// <summary>Refuses values outside a range as wrong usage.</summary>
    public static Option<int> InRange(this Option<int> option, int least, int most)
    {
        option.Validators.Add(result =>
        {
            // Text that is no number has an error of its own.
            if (result.Tokens.Count == 1 && int.TryParse(result.Tokens[0].Value, NumberStyles.Integer, CultureInfo.InvariantCulture, out var value) && (value < least || value > most))
                result.AddError(most == int.MaxValue ? $"{option.Name} must be at least {least}." : $"{option.Name} must lie between {least} and {most}.");
        });
        return option;
    }

    /// <summary>Positive numbers with commas between them; an empty text is none.</summary>
    public static Option<string> Numbers(string name, string description, string numbers, int most)
    {
        var option = new Option<string>(name) { Description = description, DefaultValueFactory = _ => numbers, HelpName = "N,N,…" };
        option.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && !result.Tokens[0].Value.Split(',', StringSplitOptions.RemoveEmptyEntries).All(n => int.TryParse(n, NumberStyles.None, CultureInfo.InvariantCulture, out var value) && value >= 1 && value <= most))
                result.AddError($"{name} takes numbers between 1 and {most} with commas between them; it was '{result.Tokens[0].Value}'.");
        });
        return option;
    }

    public static IReadOnlyList<int> NumbersOf(string text) => [.. text.Split(',', StringSplitOptions.RemoveEmptyEntries).Select(static n => int.Parse(n, CultureInfo.InvariantCulture)).Distinct().Order()];

    /// <summary>The optional last argument of commands that read JSON lines.</summary>
    public static Argument<string?> Input(string description) => new("FILE") { Description = $"{description} Standard input without it, or with '-'.", Arity = ArgumentArity.ZeroOrOne };
}
