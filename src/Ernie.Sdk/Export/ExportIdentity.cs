using System.Globalization;
using System.Security.Cryptography;
using System.Text;

namespace Ernie.Sdk.Export;

/// <summary>What an export depends on, so that an earlier one of the same is recognised.</summary>
internal static class ExportIdentity
{
    /// <summary>The files of a checkpoint with sizes and times.</summary>
    public static string Files(string checkpoint)
    {
        var text = new StringBuilder(Path.GetFullPath(checkpoint));
        foreach (var file in new DirectoryInfo(checkpoint).EnumerateFiles().OrderBy(static f => f.Name, StringComparer.Ordinal))
            text.Append(CultureInfo.InvariantCulture, $"|{file.Name}:{file.Length}:{file.LastWriteTimeUtc.Ticks}");
        return text.ToString();
    }

    /// <summary>A checkpoint's files, the graph that is written, which says formats and offsets of all weights, what rounds them, and this build of the library.</summary>
    public static string Of(string checkpoint, byte[] graph, string quantizer) => Hash($"{Files(checkpoint)}|{Convert.ToHexStringLower(SHA256.HashData(graph))}|{quantizer}|{typeof(ExportIdentity).Module.ModuleVersionId}");

    public static string Hash(string text) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text)));
}
