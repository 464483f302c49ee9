using System.Diagnostics;
using System.Globalization;

namespace Ernie.Cli.Measuring;

/// <summary>Memory of this process at one moment, in bytes.</summary>
/// <param name="Private">Pages of its own (RssAnon; where the system does not say, private bytes).</param>
/// <param name="Mapped">Pages of files, which processes share (RssFile); null where the system does not say.</param>
/// <param name="Peak">The largest size of both together so far (VmHWM, peak working set).</param>
internal sealed record ProcessMemory(long Private, long? Mapped, long Peak)
{
    public static ProcessMemory Now()
    {
        if (OperatingSystem.IsLinux()) return Parse(File.ReadAllLines("/proc/self/status"));
        using var process = Process.GetCurrentProcess();
        return new ProcessMemory(process.PrivateMemorySize64, null, process.PeakWorkingSet64);
    }

    /// <summary>Reads the lines of /proc/PID/status.</summary>
    internal static ProcessMemory Parse(IReadOnlyList<string> lines)
    {
        return new ProcessMemory(Kilobytes("RssAnon:") * 1024, Kilobytes("RssFile:") * 1024, Kilobytes("VmHWM:") * 1024);

        long Kilobytes(string key)
        {
            var line = lines.FirstOrDefault(l => l.StartsWith(key, StringComparison.Ordinal)) ?? throw new InvalidDataException($"/proc/self/status has no line {key}");
            return long.Parse(line.AsSpan(key.Length).Trim().ToString().Split(' ')[0], CultureInfo.InvariantCulture);
        }
    }

    /// <summary>Runs work and tells the most private memory that was seen meanwhile, by a look every few milliseconds.</summary>
    public static async Task<long> PeakPrivateDuringAsync(Func<Task> work)
    {
        var running = work();
        var most = Now().Private;
        while (await Task.WhenAny(running, Task.Delay(5)).ConfigureAwait(false) != running) most = Math.Max(most, Now().Private);
        await running.ConfigureAwait(false);
        return Math.Max(most, Now().Private);
    }
}
