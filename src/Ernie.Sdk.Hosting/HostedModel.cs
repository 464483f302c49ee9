using System.Diagnostics;
using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Hosting;

/// <summary>One model of a host: loaded once, at start or at the first use, whichever comes first, and disposed with the host.</summary>
internal sealed class HostedModel : IDisposable, IAsyncDisposable
{
    private readonly ErnieHostingOptions _options;
    private readonly ILoggerFactory _loggers;
    private readonly CancellationTokenSource _stopping = new();
    private readonly Lazy<Task<ErnieModel>> _loading;
    private int _disposed;

    public HostedModel(ErnieHostingOptions options, ILoggerFactory loggers)
    {
        (_options, _loggers) = (options, loggers);
        Logger = loggers.CreateLogger("Ernie.Sdk.Hosting");
        _loading = new Lazy<Task<ErnieModel>>(LoadAsync);
    }

    public ILogger Logger { get; }

    public string ModelPath => _options.ModelPath;

    public bool LoadsAtStart => _options.LoadAtStart;

    /// <summary>The load, or null while nobody has asked for it.</summary>
    public Task<ErnieModel>? Loading => _loading.IsValueCreated ? _loading.Value : null;

    /// <summary>The model, if it is loaded.</summary>
    public ErnieModel? Loaded => Loading is { IsCompletedSuccessfully: true } loaded ? loaded.Result : null;

    /// <summary>Begins the load where nobody has, and waits for it.</summary>
    public Task<ErnieModel> GetAsync(CancellationToken cancellationToken)
    {
        ObjectDisposedException.ThrowIf(_disposed != 0, typeof(ErnieModel));
        return _loading.Value.WaitAsync(cancellationToken);
    }

    public void Dispose() => DisposeAsync().AsTask().GetAwaiter().GetResult();

    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0) return;
        await _stopping.CancelAsync().ConfigureAwait(false);
        if (Loading is { } loading)
        {
            await ((Task)loading).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            if (loading.IsCompletedSuccessfully) await (await loading.ConfigureAwait(false)).DisposeAsync().ConfigureAwait(false);
        }
        _stopping.Dispose();
    }

    private async Task<ErnieModel> LoadAsync()
    {
        // Whoever asks first goes on at once.
        await Task.Yield();
        var started = Stopwatch.GetTimestamp();
        var settings = _options.Model.Snapshot();
        settings.LoggerFactory ??= _loggers;
        HostingLog.Loading(Logger, ModelPath);
        ErnieModel? model = null;
        try
        {
            model = await ErnieModel.LoadAsync(ModelPath, settings, progress: null, _stopping.Token).ConfigureAwait(false);
            // Code and the dense weights' pages are ready when the first user comes. It is scored and not answered: a request of nobody's would stand among the users' in traces and metrics.
            await model.ScoreAsync([0], static (_, _) => { }, _stopping.Token).ConfigureAwait(false);
            HostingLog.Loaded(Logger, model.ModelId, Stopwatch.GetElapsedTime(started).TotalSeconds);
            return model;
        }
        catch (Exception e)
        {
            if (!_stopping.IsCancellationRequested) HostingLog.LoadFailed(Logger, e, ModelPath);
            if (model is not null) await model.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }
}
