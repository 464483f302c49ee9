using System.Text.Json;

namespace Ernie.Cli.Pulling;

/// <summary>A repository of Hugging Face, or of a server that speaks the same.</summary>
internal sealed class HuggingFace(Uri server, string repository, string revision, string? token) : IRepository
{
    public static Uri Server { get; } = new("https://huggingface.co/");
    public const string TokenVariable = "HF_TOKEN";
    private readonly HubClient _client = new(server, token, token is null ? $"pass --token, or set {TokenVariable}" : "check the token");

    public string Name => repository;

    public async Task<IReadOnlyList<RepositoryFile>> ListAsync(CancellationToken cancellationToken)
    {
        var files = new List<RepositoryFile>();
        var page = new Uri(server, $"api/models/{repository}/tree/{Uri.EscapeDataString(revision)}?recursive=true");
        for (var next = page; next is not null && files.Count < 1_000_000;)
        {
            (var json, next) = await _client.GetJsonAsync(next, $"{repository} at {revision}", cancellationToken).ConfigureAwait(false);
            using var document = Listing.Parse(json, repository);
            foreach (var entry in Listing.Array(document.RootElement, repository))
            {
                if (Listing.Text(entry, "type", repository) != "file") continue;
                var lfs = entry.TryGetProperty("lfs", out var value) && value.ValueKind == JsonValueKind.Object ? value : (JsonElement?)null;
                files.Add(new RepositoryFile(Listing.Text(entry, "path", repository) ?? "", Listing.Number(lfs ?? entry, "size", repository),
                    lfs is { } large ? Listing.Hash(large, "oid", 64, repository) : null, lfs is null ? Listing.Hash(entry, "oid", 40, repository) : null));
            }
        }
        return files;
    }

    public Task<OpenedFile> OpenAsync(RepositoryFile file, long offset, string? validator, CancellationToken cancellationToken) =>
        _client.OpenAsync(new Uri(server, $"{repository}/resolve/{Uri.EscapeDataString(revision)}/{Listing.Escape(file.Path)}"), offset, validator, $"{repository}/{file.Path}", cancellationToken);

    public void Dispose() => _client.Dispose();
}
