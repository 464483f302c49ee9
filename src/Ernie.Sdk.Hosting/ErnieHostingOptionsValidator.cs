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
        try
        {
            options.Model.Validate();
            return ValidateOptionsResult.Success;
        }
        catch (ArgumentException e)
        {
            return ValidateOptionsResult.Fail($"{section}:Model: {e.Message}");
        }
    }
}
