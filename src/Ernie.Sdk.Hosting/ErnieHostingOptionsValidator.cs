using Ernie.Sdk.Export;
using Microsoft.Extensions.Options;

namespace Ernie.Sdk.Hosting;

/// <summary>Tells what is wrong before anything is loaded.</summary>
internal sealed class ErnieHostingOptionsValidator : IValidateOptions<ErnieHostingOptions>
{
    public ValidateOptionsResult Validate(string? name, ErnieHostingOptions options)
    {
        var section = string.IsNullOrEmpty(name) ? "Ernie" : $"Ernie:{name}";
        if (string.IsNullOrWhiteSpace(options.ModelPath)) return ValidateOptionsResult.Fail($"{section}:ModelPath is missing. Set it in the configuration, or in code, to the folder of an exported model or a checkpoint.");
        if (!Directory.Exists(options.ModelPath)) return ValidateOptionsResult.Fail($"{section}:ModelPath: there is no folder {Path.GetFullPath(options.ModelPath)}.");
        if (!File.Exists(Path.Combine(options.ModelPath, ModelManifest.FileName)) && !File.Exists(Path.Combine(options.ModelPath, "config.json")))
            return ValidateOptionsResult.Fail($"{section}:ModelPath: {Path.GetFullPath(options.ModelPath)} holds neither an exported model ({ModelManifest.FileName}) nor a checkpoint (config.json).");
        try
        {
            options.Model.Validate();
            // Headers alone are read: what is wrong with the weights themselves shows when they are loaded.
            ErnieModelOptions.CheckContext(ErniePlan.Read(options.ModelPath, options.Model.Export).Config.ContextLength, options.Model);
            return ValidateOptionsResult.Success;
        }
        catch (ArgumentException e)
        {
            return ValidateOptionsResult.Fail(OfSetting($"{section}:Model", e));
        }
        catch (Exception e) when (e is InvalidDataException or NotSupportedException or IOException or UnauthorizedAccessException or OverflowException)
        {
            return ValidateOptionsResult.Fail($"{section}:ModelPath: {e.Message}");
        }
    }

    /// <summary>A message of the library, which names its options as code does, under the name that the configuration has for them.</summary>
    private static string OfSetting(string section, ArgumentException failure)
    {
        var message = failure.Message.Replace($" (Parameter '{failure.ParamName}')", "", StringComparison.Ordinal).ReplaceLineEndings(" ");
        const string Code = $"{nameof(ErnieModelOptions)}.";
        if (message.Contains(Code, StringComparison.Ordinal)) return message.Replace(Code, $"{section}:", StringComparison.Ordinal);
        return failure.ParamName is { Length: > 0 } name && char.IsAsciiLetterUpper(name[0])
            ? message.StartsWith(name, StringComparison.Ordinal) ? $"{section}:{message}" : $"{section}:{name}: {message}" : $"{section}: {message}";
    }
}
