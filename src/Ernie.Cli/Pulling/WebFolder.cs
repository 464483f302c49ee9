using Ernie.Sdk.Checkpoints;

namespace Ernie.Cli.Pulling;

/// <summary>A folder of a plain web server, which lists nothing: the files that a checkpoint may have are asked for by name.</summary>
internal sealed class WebFolder : IRepository
{
    private static readonly string[] s_candidates =
    [
        "config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json",
        "wint2_config.json", "LICENSE", "plas_attention_mlp_weight.safetensors",
    ];
    private readonly Uri _folder;
    private readonly HubClient _client;

    public WebFolder(Uri folder, string? token)
    {
        _folder = folder.AbsolutePath.EndsWith('/') ? folder : new UriBuilder(folder) { Path = folder.AbsolutePath + "/" }.Uri;
        _client = new HubClient(_folder, token, token is null ? "pass --token" : "check the token");
    }

    public string Name => _folder.ToString();

    public async Task<IReadOnlyList<RepositoryFile>> ListAsync(CancellationToken cancellationToken)
    {
        var files = new List<RepositoryFile>();
        foreach (var name in s_candidates)
        {
            if (await AskAsync(name, cancellationToken).ConfigureAwait(false) is { } file) files.Add(file);
            else if (files.Count == 0) throw new FileNotFoundException($"{_folder} has no {name}: this is no folder of a checkpoint.");
        }
        if (await AskAsync(ShardIndex.FileName, cancellationToken).ConfigureAwait(false) is not { } index)
        {
            files.Add(await AskAsync("model.safetensors", cancellationToken).ConfigureAwait(false) ?? throw new FileNotFoundException($"{_folder} has neither model.safetensors nor {ShardIndex.FileName}: there are no weights."));
            return files;
        }
        files.Add(index);
        var (json, _) = await _client.GetJsonAsync(new Uri(_folder, ShardIndex.FileName), Name + ShardIndex.FileName, cancellationToken).ConfigureAwait(false);
        foreach (var shard in ShardIndex.Parse(json, ShardIndex.FileName).Values.Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal))
        {
            if (await AskAsync(shard, cancellationToken).ConfigureAwait(false) is { } file) files.Add(file);
        }
        return files;
    }

    public Task<OpenedFile> OpenAsync(RepositoryFile file, long offset, string? validator, CancellationToken cancellationToken) =>
        _client.OpenAsync(new Uri(_folder, Listing.Escape(file.Path)), offset, validator, Name + file.Path, cancellationToken);

    public void Dispose() => _client.Dispose();

    /// <summary>Length and hash of a file, from the headers of an answer that is not read on; null where there is none.</summary>
    private async Task<RepositoryFile?> AskAsync(string name, CancellationToken cancellationToken)
    {
        try
        {
            using var opened = await OpenAsync(new RepositoryFile(name, null), 0, null, cancellationToken).ConfigureAwait(false);
            return new RepositoryFile(name, opened.Length, opened.Sha256);
        }
        catch (FileNotFoundException)
        {
            return null;
        }
    }
}
