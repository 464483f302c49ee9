using System.Text.Json;

namespace Ernie.Cli.Pulling;

/// <summary>A repository of ModelScope.</summary>
internal sealed class ModelScope(Uri server, string repository, string revision, string? token) : IRepository
{
    public static Uri Server { get; } = new("https://modelscope.cn/");
    public const string TokenVariable = "MODELSCOPE_API_TOKEN";
    private readonly HubClient _client = new(server, token, token is null ? $"pass --token, or set {TokenVariable}" : "check the token");

    public string Name => repository;

    public async Task<IReadOnlyList<RepositoryFile>> ListAsync(CancellationToken cancellationToken)
    {
        var address = new Uri(server, $"api/v1/models/{repository}/repo/files?Revision={Uri.EscapeDataString(revision)}&Recursive=true");
        var (json, _) = await _client.GetJsonAsync(address, $"{repository} at {revision}", cancellationToken).ConfigureAwait(false);
        using var document = Listing.Parse(json, repository);
        var root = document.RootElement;
        // Errors may come with status 200.
        if (root.ValueKind != JsonValueKind.Object || (root.TryGetProperty("Success", out var success) && success.ValueKind == JsonValueKind.False))
            throw new FileNotFoundException($"{repository} at {revision}: {(root.ValueKind == JsonValueKind.Object ? Listing.Text(root, "Message", repository) : null) ?? "not found"}. Check the name and --revision.");
        if (!root.TryGetProperty("Data", out var data) || data.ValueKind != JsonValueKind.Object || !data.TryGetProperty("Files", out var list)) throw Listing.Invalid(repository, "it has no Data.Files");
        var files = new List<RepositoryFile>();
        foreach (var entry in Listing.Array(list, repository))
        {
            if (Listing.Text(entry, "Type", repository) != "blob") continue;
            files.Add(new RepositoryFile(Listing.Text(entry, "Path", repository) ?? "", Listing.Number(entry, "Size", repository), Listing.Hash(entry, "Sha256", 64, repository)));
        }
        return files;
    }

    public Task<OpenedFile> OpenAsync(RepositoryFile file, long offset, string? validator, CancellationToken cancellationToken) =>
        _client.OpenAsync(new Uri(server, $"api/v1/models/{repository}/repo?Revision={Uri.EscapeDataString(revision)}&FilePath={Uri.EscapeDataString(file.Path)}"), offset, validator, $"{repository}/{file.Path}", cancellationToken);

    public void Dispose() => _client.Dispose();
}
