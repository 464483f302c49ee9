using System.Diagnostics;

namespace Ernie.Sdk.Tests.Support;

/// <summary>Shared libraries that a test compiles from C, in a folder that lives as long as the process.</summary>
internal static class CompiledLibrary
{
    private static readonly TemporaryFolder s_folder = new();

    static CompiledLibrary() => AppDomain.CurrentDomain.ProcessExit += (_, _) => s_folder.Dispose();

    /// <summary>Compiles, or skips the test that asks where there is no C compiler.</summary>
    /// <param name="name">File name of the library; unique among tests.</param>
    /// <param name="source">C.</param>
    /// <param name="options">Of the compiler.</param>
    /// <returns>Path of the library.</returns>
    public static string Of(string name, string source, params IEnumerable<string> options)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Libraries are compiled for tests on Linux only.");
        var path = s_folder.File(name);
        lock (s_folder)
        {
            if (File.Exists(path)) return path;
            var file = s_folder.File(name + ".c");
            File.WriteAllText(file, source);
            var start = new ProcessStartInfo("cc", ["-shared", "-fPIC", "-O1", "-pthread", .. options, "-o", path, file]) { RedirectStandardError = true };
            Process compiler;
            try
            {
                compiler = Process.Start(start)!;
            }
            catch (System.ComponentModel.Win32Exception)
            {
                Assert.Skip("There is no C compiler (cc).");
                throw;
            }
            using (compiler)
            {
                var errors = compiler.StandardError.ReadToEnd();
                compiler.WaitForExit();
                Assert.True(compiler.ExitCode == 0, errors);
            }
            return path;
        }
    }

    /// <summary>A library that is only there to be found.</summary>
    public static string Empty(string name) => Of(name, "int ernie_test;");
}
