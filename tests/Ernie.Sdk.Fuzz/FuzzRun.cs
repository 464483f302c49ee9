using System.Diagnostics;

namespace Ernie.Sdk.Fuzz;

/// <summary>Feeds a reader with mutations of its seeds. A failure is an exception of another kind than the reader documents, too much memory, or too much time.</summary>
internal static class FuzzRun
{
    private static readonly TimeSpan MaxTime = TimeSpan.FromSeconds(2);
    private const int MaxFailures = 100;

    public static FuzzResult Run(FuzzReader reader, int iterations, int seed)
    {
        var result = new FuzzResult(reader.Name);
        // The seeds must be read, or be refused by name; this also warms the code up.
        for (var i = 0; i < 20; i++)
        {
            foreach (var bytes in reader.Seeds) RunOne(reader, bytes, new FuzzResult(reader.Name));
        }
        var tokens = reader.Seeds.Select(bytes => reader.IsJson ? new JsonTokens(bytes) : null).ToArray();
        var random = new Random(seed);
        var mutator = new Mutator(random);
        var start = Stopwatch.GetTimestamp();
        for (var i = 0; i < iterations && result.Failures.Count < MaxFailures; i++)
        {
            var pick = random.Next(reader.Seeds.Count);
            RunOne(reader, mutator.Mutate(reader.Seeds[pick], tokens[pick]), result);
        }
        result.Elapsed = Stopwatch.GetElapsedTime(start);
        return result;
    }

    private static void RunOne(FuzzReader reader, byte[] input, FuzzResult result)
    {
        result.Inputs++;
        var allocatedBefore = GC.GetAllocatedBytesForCurrentThread();
        var start = Stopwatch.GetTimestamp();
        Exception? thrown = null;
        try
        {
            reader.Read(input);
            result.Accepted++;
        }
#pragma warning disable CA1031 // Every kind of exception is what is looked for.
        catch (Exception e)
#pragma warning restore CA1031
        {
            thrown = e;
        }
        var elapsed = Stopwatch.GetElapsedTime(start);
        var allocated = GC.GetAllocatedBytesForCurrentThread() - allocatedBefore;
        result.MostAllocated = Math.Max(result.MostAllocated, allocated);
        if (elapsed > result.Slowest) (result.Slowest, result.SlowestInput) = (elapsed, input);
        if (thrown is not null)
        {
            var type = thrown.GetType().Name;
            result.Exceptions[type] = result.Exceptions.GetValueOrDefault(type) + 1;
            if (!reader.Allowed(thrown)) result.Failures.Add($"{type}: {thrown.Message} {thrown.StackTrace?.Split('\n')[0].Trim()} on {Convert.ToBase64String(input)}");
        }
        if (allocated > reader.MaxAllocated + reader.MaxAllocatedPerByte * input.Length) result.Failures.Add($"{allocated} bytes allocated on {Convert.ToBase64String(input)}");
        if (elapsed > MaxTime) result.Failures.Add($"{elapsed} on {Convert.ToBase64String(input)}");
    }
}
