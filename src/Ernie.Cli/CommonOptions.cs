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

    /// <summary>The optional last argument of commands that read JSON lines.</summary>
    public static Argument<string?> Input(string description) => new("FILE") { Description = $"{description} Standard input without it, or with '-'.", Arity = ArgumentArity.ZeroOrOne };
}
