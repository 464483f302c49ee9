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

    /// <summary>What messages become a prompt by.</summary>
    public static Option<string> Template() => new Option<string>("--template")
    {
        Description = "Chat format: what the model's files say, or one by name. thinking brings reasoning and tools where the model has learnt them, as samples/ernie-tiny-moe has.",
        DefaultValueFactory = static _ => "auto",
    }.AcceptOnlyFromAmong("auto", "standard", "thinking");

    public static ErnieChatTemplate TemplateOf(string text) => Enum.Parse<ErnieChatTemplate>(text, ignoreCase: true);

    /// <summary>How long a conversation may get.</summary>
    public static Option<int?> Context()
    {
        var option = new Option<int?>("--context") { Description = "Longest conversation in tokens. [default: what the model was trained for, or the memory allows]", HelpName = "N" };
        option.Validators.Add(static result =>
        {
            if (result.Tokens.Count == 1 && int.TryParse(result.Tokens[0].Value, out var value) && value < 1) result.AddError("--context must be at least 1.");
        });
        return option;
    }

    /// <summary>A number of bytes with its unit.</summary>
    public static Option<string?> Bytes(string name, string description, bool required = false)
    {
        var option = new Option<string?>(name) { Description = description, HelpName = "SIZE", Required = required };
        option.Validators.Add(result =>
        {
            if (result.Tokens.Count != 1 || Size.TryParse(result.Tokens[0].Value, out _)) return;
            var text = result.Tokens[0].Value;
            result.AddError(decimal.TryParse(text, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out _) && Size.TryParse($"{text}GB", out _) ? $"{name} {text}: give a unit, such as {text}GB." : $"{name} takes a size such as 80GB or 24GiB; it was '{text}'.");
        });
        return option;
    }

    /// <summary>Where checkpoints that are loaded directly are exported to.</summary>
    public static Option<string?> Cache() => new("--cache") { Description = "Folder for exports of checkpoints. [default: ernie-sdk in the user's local application data]", HelpName = "FOLDER" };

    /// <summary>Precision of the routed experts.</summary>
    public static Option<string?> Experts(string otherwise) => Precision("--experts", $"Precision of the routed experts. {otherwise}", "bf16", "fp32", "int8", "int4", "int2");

    /// <summary>Precision of everything else.</summary>
    public static Option<string?> Dense(string otherwise) =>
        Precision("--dense", $"Precision of every other matrix. Norms and routers are fp32; the embedding is bf16 where this is an integer precision. {otherwise}", "bf16", "fp32", "int8", "int4");

    public static Option<string> Group() => new Option<string>("--group")
    {
        Description = "Neighbouring inputs that share a scale in int8 and int4; 'channel': all of an output's, as in FastDeploy's wint8 and wint4.",
        DefaultValueFactory = static _ => "128",
    }.AcceptOnlyFromAmong("32", "64", "128", "channel");

    public static ErniePrecision? PrecisionOf(string? text) => text switch
    {
        null => null,
        "fp32" => ErniePrecision.Float32,
        "int8" => ErniePrecision.Int8,
        "int4" => ErniePrecision.Int4,
        "int2" => ErniePrecision.Int2,
        _ => ErniePrecision.BFloat16,
    };

    public static ErnieKvCacheType KvCacheTypeOf(string text) => text switch { "bf16" => ErnieKvCacheType.BFloat16, "int8" => ErnieKvCacheType.Int8, _ => ErnieKvCacheType.Float32 };

    public static int GroupOf(string text) => text == "channel" ? ErnieExportOptions.PerChannel : int.Parse(text, CultureInfo.InvariantCulture);

    private static Option<string?> Precision(string name, string description, params string[] values) => new Option<string?>(name) { Description = description }.AcceptOnlyFromAmong(values);

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

    /// <summary>Numbers with commas between them; an empty text is none.</summary>
    public static Option<string> Numbers(string name, string description, string numbers, int most, int least = 1)
    {
        var option = new Option<string>(name) { Description = description, DefaultValueFactory = _ => numbers, HelpName = "N,N,…" };
        option.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && !result.Tokens[0].Value.Split(',', StringSplitOptions.RemoveEmptyEntries).All(n => int.TryParse(n, NumberStyles.None, CultureInfo.InvariantCulture, out var value) && value >= least && value <= most))
                result.AddError($"{name} takes numbers between {least} and {most} with commas between them; it was '{result.Tokens[0].Value}'.");
        });
        return option;
    }

    public static IReadOnlyList<int> NumbersOf(string text) => [.. text.Split(',', StringSplitOptions.RemoveEmptyEntries).Select(static n => int.Parse(n, CultureInfo.InvariantCulture)).Distinct().Order()];

    /// <summary>The optional last argument of commands that read JSON lines.</summary>
    public static Argument<string?> Input(string description) => new("FILE") { Description = $"{description} Standard input without it, or with '-'.", Arity = ArgumentArity.ZeroOrOne };
}
