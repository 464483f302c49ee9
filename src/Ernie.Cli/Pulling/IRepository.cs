namespace Ernie.Cli.Pulling;

/// <summary>Where checkpoints come from: a hub, a web server, or a folder.</summary>
internal interface IRepository : IDisposable
{
    /// <summary>How messages call it.</summary>
    string Name { get; }

    Task<IReadOnlyList<RepositoryFile>> ListAsync(CancellationToken cancellationToken);

    /// <param name="file">One of the listed files.</param>
    /// <param name="offset">How much of it is there already.</param>
    /// <param name="validator">What those bytes were served with, if anything.</param>
    /// <param name="cancellationToken">Stops waiting for the answer.</param>
    /// <exception cref="InterruptedTransferException">It may work the next time.</exception>
    Task<OpenedFile> OpenAsync(RepositoryFile file, long offset, string? validator, CancellationToken cancellationToken);
}
