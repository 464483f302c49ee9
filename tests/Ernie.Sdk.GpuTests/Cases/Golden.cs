using System.Runtime.InteropServices;
using System.Text.Json;

namespace Ernie.Sdk.GpuTests.Cases;

/// <summary>Reads the JSON files of golden data.</summary>
internal static class Golden
{
    public static JsonDocument Open(string path) => JsonDocument.Parse(File.ReadAllBytes(path));

    public static int[] Ints(JsonElement array) => [.. array.EnumerateArray().Select(static e => e.GetInt32())];

    /// <summary>Little-endian float32 values in base64.</summary>
    public static float[] Floats(JsonElement base64) => MemoryMarshal.Cast<byte, float>(base64.GetBytesFromBase64()).ToArray();

    public static float MaxDifference(ReadOnlySpan<float> actual, ReadOnlySpan<float> expected)
    {
        if (expected.Length != actual.Length) throw new ArgumentException($"{actual.Length} numbers instead of {expected.Length}.", nameof(actual));
        var worst = 0f;
        for (var i = 0; i < actual.Length; i++)
        {
            var difference = Math.Abs(actual[i] - expected[i]);
            if (!(difference <= worst)) worst = float.IsNaN(difference) ? float.PositiveInfinity : difference;
        }
        return worst;
    }
}
