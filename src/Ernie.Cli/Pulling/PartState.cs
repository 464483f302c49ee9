using System.Text.Json;

namespace Ernie.Cli.Pulling;

/// <summary>What lies beside a file that has arrived in part: which content its bytes are of.</summary>
/// <param name="Hash">The content's hash in the repository's list.</param>
/// <param name="Validator">What the bytes were served with.</param>
/// <param name="Sha256">The hash that came with them.</param>
internal sealed record PartState(string? Hash, string? Validator, string? Sha256)
{
    public static PartState? Read(string path)
    {
        try
        {
            return File.Exists(path) ? JsonSerializer.Deserialize<PartState>(File.ReadAllBytes(path)) : null;
        }
        catch (JsonException)
        {
            // A process that was killed while it wrote: the file begins anew.
            return null;
        }
    }

    public void Write(string path) => File.WriteAllBytes(path, JsonSerializer.SerializeToUtf8Bytes(this));
}
