using System.IO.Compression;

namespace Ernie.Sdk.Kernels;

/// <summary>The kernels of <c>Kernels/Cuda</c> as PTX, which this assembly carries compressed.</summary>
internal static class CudaPtx
{
    /// <summary><c>sm_80</c> runs on that compute capability and every later one, <c>sm_90a</c> on 9.0 alone.</summary>
    public static IReadOnlyList<string> Targets { get; } = ["sm_80", "sm_90a"];

    /// <summary>Text of a file for a target, as in <c>("norm", "sm_80")</c>; null if there is none.</summary>
    public static Stream? Open(string file, string target)
    {
        using var resource = typeof(CudaPtx).Assembly.GetManifestResourceStream($"Ernie.Sdk.Kernels.Cuda.{file}.{target}.ptx.gz");
        if (resource is null) return null;
        var text = new MemoryStream();
        using (var gzip = new GZipStream(resource, CompressionMode.Decompress)) gzip.CopyTo(text);
        text.Position = 0;
        return text;
    }
}
