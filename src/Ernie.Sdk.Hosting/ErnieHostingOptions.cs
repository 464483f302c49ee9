using System.Globalization;
using Microsoft.Extensions.Configuration;

namespace Ernie.Sdk.Hosting;

/// <summary>Which model a host runs, and how. The section <c>Ernie</c> of the configuration (for a keyed client <c>Ernie:KEY</c>) is bound to it first, then code may change it.</summary>
public sealed class ErnieHostingOptions
{
    /// <summary>Gets or sets the folder of an exported model or a checkpoint. Required.</summary>
    public string ModelPath { get; set; } = "";

    /// <summary>Gets or sets whether the model is loaded, and computes a first token, while the host starts. Otherwise the first use loads it.</summary>
    /// <value>The default is <see langword="true"/>. The host does not wait for it; the health check tells when it is done.</value>
    public bool LoadAtStart { get; set; } = true;

    /// <summary>Gets how the model is loaded and run. Without a logger factory it logs to the host's.</summary>
    public ErnieModelOptions Model { get; } = new();

    /// <summary>Reads each setting by its name: what a binder by reflection does, but it works in trimmed programs, and a misspelled key is an error.</summary>
    internal void Bind(IConfigurationSection section)
    {
        foreach (var child in section.GetChildren())
        {
            switch (child.Key.ToUpperInvariant())
            {
                case "MODELPATH": ModelPath = Text(child) ?? ""; break;
                case "LOADATSTART": LoadAtStart = Value<bool>(child); break;
                case "MODEL": BindModel(child); break;
                // The section of a client without a key contains those of keyed ones.
                default: if (child.Value is not null) throw Unknown(child, "ModelPath, LoadAtStart, Model"); break;
            }
        }
    }

    private void BindModel(IConfigurationSection section)
    {
        // An empty object, and an empty variable, ask for nothing.
        if (section.Value is { Length: > 0 } value) throw new InvalidDataException($"Configuration {section.Path} is '{value}'; expected a section, such as {section.Path}:{nameof(ErnieModelOptions.ContextLength)}.");
        foreach (var child in section.GetChildren())
        {
            switch (child.Key.ToUpperInvariant())
            {
                case "DEVICE": Model.Device = Choice<ErnieDevice>(child); break;
                case "THREADS": Model.Threads = Value<int>(child); break;
                case "KVCACHETYPE": Model.KvCacheType = Choice<ErnieKvCacheType>(child); break;
                case "KVCACHEBYTES": Model.KvCacheBytes = Value<long>(child); break;
                case "PREFIXCACHEBYTES": Model.PrefixCacheBytes = Value<long>(child); break;
                case "CONTEXTLENGTH": Model.ContextLength = Value<int>(child); break;
                case "CONTEXTOVERFLOW": Model.ContextOverflow = Choice<ErnieContextOverflow>(child); break;
                case "MAXCONCURRENTREQUESTS": Model.MaxConcurrentRequests = Value<int>(child); break;
                case "MAXQUEUEDREQUESTS": Model.MaxQueuedRequests = Value<int>(child); break;
                case "PREFILLCHUNKTOKENS": Model.PrefillChunkTokens = Value<int>(child); break;
                case "EXPERTPREFETCH": Model.ExpertPrefetch = Choice<ErnieExpertPrefetch>(child); break;
                case "CHATTEMPLATE": Model.ChatTemplate = Choice<ErnieChatTemplate>(child); break;
                case "SPARSEATTENTION": Model.SparseAttention = Value<bool>(child) ? new ErnieSparseAttention() : ErnieSparseAttention.Dense; break;
                case "CACHEDIRECTORY": Model.CacheDirectory = Text(child); break;
                case "CALIBRATE": Model.Export.Calibrate = Value<bool>(child); break;
                default:
                    throw Unknown(child, "Device, Threads, KvCacheType, KvCacheBytes, PrefixCacheBytes, ContextLength, ContextOverflow, MaxConcurrentRequests, MaxQueuedRequests, PrefillChunkTokens, ExpertPrefetch, ChatTemplate, SparseAttention, CacheDirectory, Calibrate");
            }
        }
    }

    private static string? Text(IConfigurationSection setting) =>
        setting.GetChildren().Any() ? throw new InvalidDataException($"Configuration {setting.Path} is a section; expected a text.") : setting.Value;

    private static T Value<T>(IConfigurationSection setting) where T : IParsable<T> =>
        T.TryParse(setting.Value, CultureInfo.InvariantCulture, out var value) ? value : throw new InvalidDataException($"Configuration {setting.Path} is '{setting.Value}'; expected {(typeof(T) == typeof(bool) ? "true or false" : "an integer")}.");

    private static T Choice<T>(IConfigurationSection setting) where T : struct, Enum =>
        // Enum.TryParse takes numbers too.
        Enum.TryParse<T>(setting.Value, ignoreCase: true, out var value) && Enum.IsDefined(value) && !char.IsAsciiDigit(setting.Value![0])
            ? value
            : throw new InvalidDataException($"Configuration {setting.Path} is '{setting.Value}'; expected {string.Join(", ", Enum.GetNames<T>())}.");

    private static InvalidDataException Unknown(IConfigurationSection setting, string known) => new($"Configuration {setting.Path} is unknown. Known are {known}.");
}
