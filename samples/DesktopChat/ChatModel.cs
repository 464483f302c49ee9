using System.Globalization;
using Ernie.Sdk;

namespace DesktopChat;

/// <summary>The model of the window: being loaded, ready or failed. Another takes its place when the user chooses one.</summary>
internal sealed class ChatModel : IAsyncDisposable
{
    private readonly Lock _lock = new();
    private Choice? _choice;

    /// <summary>The model, if it is loaded.</summary>
    public ErnieModel? Loaded => _choice?.Model;

    public ModelStatus Status => _choice?.Status ?? new ModelStatus("failed", "", "");

    /// <summary>Begins to load a model, and gives the former one up.</summary>
    public void Load(string path, bool think)
    {
        lock (_lock) _choice = new Choice(Path.GetFullPath(path), think, _choice);
    }

    /// <summary>Ends a load that takes too long. An export goes on from where it was when the same model is chosen again.</summary>
    public void StopLoading() => _choice?.StopLoading();

    public async ValueTask DisposeAsync()
    {
        if (_choice is { } choice) await choice.DisposeAsync();
    }

    private sealed class Choice : IAsyncDisposable, IProgress<ErnieProgress>
    {
        private readonly string _path;
        private readonly bool _think;
        private readonly CancellationTokenSource _stop = new();
        private readonly Lock _reports = new();
        private readonly Task _loading;
        private volatile ErnieModel? _model;
        private volatile string? _error;
        private ErnieProgress _progress;

        public Choice(string path, bool think, Choice? former)
        {
            (_path, _think) = (path, think);
            _loading = Task.Run(() => LoadAsync(former));
        }

        public ErnieModel? Model => _model;

        public ModelStatus Status
        {
            get
            {
                var name = Path.GetFileName(_path.TrimEnd(Path.DirectorySeparatorChar));
                if (_error is { } error) return new ModelStatus("failed", name, _path) { Error = error, Think = _think };
                if (_model is { } model) return new ModelStatus("ready", model.ModelId, _path) { ContextLength = model.ContextLength, Think = _think };
                ErnieProgress progress;
                lock (_reports) progress = _progress;
                return new ModelStatus("loading", name, _path)
                {
                    Think = _think,
                    Stage = progress.Stage,
                    Done = progress.BytesTotal > 0 ? (double)progress.BytesDone / progress.BytesTotal : null,
                    Remaining = progress.Remaining?.ToString(@"h\:mm\:ss", CultureInfo.InvariantCulture),
                };
            }
        }

        // Comes from the exporting thread, many times a second.
        public void Report(ErnieProgress value)
        {
            lock (_reports) _progress = value;
        }

        public void StopLoading()
        {
            if (!_loading.IsCompleted) _stop.Cancel();
        }

        public async ValueTask DisposeAsync()
        {
            StopLoading();
            await _loading;
            if (_model is { } model) await model.DisposeAsync();
            _stop.Dispose();
        }

        private async Task LoadAsync(Choice? former)
        {
            try
            {
                // Two models may not fit into memory.
                if (former is not null) await former.DisposeAsync();
                _model = await ErnieModel.LoadAsync(_path, new ErnieModelOptions { ChatTemplate = _think ? ErnieChatTemplate.Thinking : ErnieChatTemplate.Auto }, this, _stop.Token);
            }
            catch (OperationCanceledException)
            {
                _error = "Loading was stopped.";
            }
#pragma warning disable CA1031 // The window shows what went wrong, whatever it was; messages of the library name the cure.
            catch (Exception e)
#pragma warning restore CA1031
            {
                _error = e.Message;
            }
        }
    }
}

/// <summary>What the window shows of its model.</summary>
/// <param name="State">loading, ready or failed.</param>
/// <param name="Name">The model's name.</param>
/// <param name="Path">Its folder.</param>
internal sealed record ModelStatus(string State, string Name, string Path)
{
    public bool Think { get; init; }

    /// <summary>Of an export: what is being written, how much of it is done (0 to 1), and the time that remains.</summary>
    public string? Stage { get; init; }
    public double? Done { get; init; }
    public string? Remaining { get; init; }

    public string? Error { get; init; }
    public int? ContextLength { get; init; }

    /// <summary>Bytes of memory that this program holds, the weights' pages included.</summary>
    public long Memory { get; } = Environment.WorkingSet;
}
