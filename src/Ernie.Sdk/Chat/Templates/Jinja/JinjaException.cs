namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>A template that cannot be read or rendered. <see cref="Line"/> is the template's, 0 until it is known.</summary>
internal sealed class JinjaException(string message, int line = 0) : Exception(message)
{
    public int Line { get; } = line;

    /// <summary>The template is valid Jinja that this library does not run.</summary>
    public bool IsUnsupported { get; init; }

    public static JinjaException Unsupported(string what, int line = 0) => new($"{what} is not supported", line) { IsUnsupported = true };

    public JinjaException At(int line) => Line > 0 ? this : new JinjaException(Message, line) { IsUnsupported = IsUnsupported };
}
