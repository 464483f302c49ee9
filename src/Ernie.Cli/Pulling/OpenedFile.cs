namespace Ernie.Cli.Pulling;

/// <summary>The bytes of a file from some offset on.</summary>
/// <param name="Content">The bytes.</param>
/// <param name="Offset">Where they begin: what was asked for, or 0 when the repository starts over.</param>
/// <param name="Length">Bytes of the whole file, where the repository says.</param>
/// <param name="Validator">Changes with the content (a strong ETag or date); null where there is none.</param>
/// <param name="Sha256">Hash that came with the answer.</param>
/// <param name="Owner">Disposed with the stream.</param>
internal sealed record OpenedFile(Stream Content, long Offset, long? Length, string? Validator, string? Sha256, IDisposable? Owner = null) : IDisposable
{
    public void Dispose()
    {
        Content.Dispose();
        Owner?.Dispose();
    }
}
