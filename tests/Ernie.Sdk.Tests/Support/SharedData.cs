using System.Runtime.CompilerServices;

namespace Ernie.Sdk.Tests.Support;

/// <summary>Large golden data that lies beside the repository in a folder <c>shared/data</c>. Where it is missing, tests that ask for it skip and say so.</summary>
internal static class SharedData
{
    /// <summary>The repository's root, from where this file was compiled or from the test binary upwards.</summary>
    public static string RepositoryRoot { get; } = FindRoot();

    private static string? Root { get; } = FindShared();

    /// <summary>Path of a file or folder under <c>shared/data</c>; skips the test if it is not there.</summary>
    public static string Path(params string[] parts)
    {
        Assert.SkipWhen(Root is null, $"No folder 'shared/data' beside {RepositoryRoot}; this test compares with golden data that is not part of the repository.");
        var path = System.IO.Path.Combine([Root!, .. parts]);
        Assert.SkipUnless(File.Exists(path) || Directory.Exists(path), $"{path} is missing; this test compares with golden data that is not part of the repository.");
        return path;
    }

    private static string? FindShared()
    {
        var path = System.IO.Path.GetFullPath(System.IO.Path.Combine(RepositoryRoot, "..", "shared", "data"));
        return Directory.Exists(path) ? path : null;
    }

    private static string FindRoot([CallerFilePath] string source = "")
    {
        foreach (var start in new[] { AppContext.BaseDirectory, System.IO.Path.GetDirectoryName(source) })
        {
            for (var folder = start; folder is not null; folder = System.IO.Path.GetDirectoryName(folder))
            {
                if (File.Exists(System.IO.Path.Combine(folder, "Ernie.Sdk.sln"))) return folder;
            }
        }
        return Environment.CurrentDirectory;
    }
}
