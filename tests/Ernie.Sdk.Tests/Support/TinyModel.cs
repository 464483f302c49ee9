using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Tests.Support;

/// <summary>The trained model that the repository ships, exported once for all tests, at the precision of its golden data.</summary>
internal static class TinyModel
{
    private static readonly TemporaryFolder s_cache = new();
    private static readonly Lazy<Task<string>> s_exported = new(ExportAsync);

    static TinyModel() => AppDomain.CurrentDomain.ProcessExit += (_, _) => s_cache.Dispose();

    /// <summary>The checkpoint.</summary>
    public static string Checkpoint { get; } = Path.Combine(SharedData.RepositoryRoot, "samples", "ernie-tiny-moe");

    /// <summary>The exported folder; do not change it.</summary>
    public static Task<string> ExportedAsync() => s_exported.Value;

    public static async Task<ErnieModel> LoadAsync(Action<ErnieModelOptions>? configure = null, ILoggerFactory? loggers = null)
    {
        var options = new ErnieModelOptions { KvCacheType = ErnieKvCacheType.Float32, KvCacheBytes = 256 << 20, Threads = 2, LoggerFactory = loggers };
        configure?.Invoke(options);
        return await ErnieModel.LoadAsync(await ExportedAsync(), options);
    }

    private static async Task<string> ExportAsync()
    {
        var folder = s_cache.File("ernie-tiny-moe");
        await ErnieExporter.ExportAsync(Checkpoint, folder, ExportAs.BFloat16);
        return folder;
    }
}
