using System.Text;

namespace Ernie.Sdk.Fuzz;

/// <summary>Changes an input by bytes, or, for JSON, by tokens, so that the grammar often survives and the meaning does not.</summary>
internal sealed class Mutator(Random random)
{
    private static readonly byte[][] HostileValues =
    [.. new[]
    {
        "0", "-1", "1", "2", "3", "7", "8", "16", "255", "256", "4096", "65536", "16777216", "1073741824", "2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
        "1e300", "-1e300", "1e-300", "1e999", "0.5", "3.0", "1e2", "NaN", "Infinity", "null", "true", "false", "\"\"", "\"8\"", "\"../x\"", "\"\\ud800\"", "\"\\u0000\"", "[]", "{}", "[0]", "[[[[[[]]]]]]",
        "[1,2,3]", "[9223372036854775807,9223372036854775807]", "\"F32\"", "\"F64\"", "\"I8\"", "\"U8\"", "\"U16\"", "\"F4\"", "\"yarn\"", "\"default\"", "{\"rope_type\":\"linear\"}",
    }.Select(Encoding.UTF8.GetBytes)];

    public byte[] Mutate(byte[] seed, JsonTokens? tokens)
    {
        var bytes = new List<byte>(seed);
        if (tokens is { Count: > 0 } && random.Next(4) != 0) MutateToken(bytes, seed, tokens);
        if (tokens is null || random.Next(3) == 0)
        {
            for (var n = random.Next(1, 5); n > 0 && bytes.Count > 0; n--) MutateByte(bytes);
        }
        return [.. bytes];
    }

    private void MutateToken(List<byte> bytes, byte[] seed, JsonTokens tokens)
    {
        // From the back, so that earlier positions stay true.
        var picks = Enumerable.Range(0, random.Next(1, 4)).Select(_ => random.Next(tokens.Count)).Distinct().OrderByDescending(i => tokens[i].Start);
        foreach (var pick in picks)
        {
            var (start, length, isName) = tokens[pick];
            if (start + length > bytes.Count) continue;
            var other = tokens[random.Next(tokens.Count)];
            switch (random.Next(4))
            {
                case 0 when !isName:
                case 1 when !isName:
                    Replace(bytes, start, length, HostileValues[random.Next(HostileValues.Length)]);
                    break;
                case 2:
                    if (other.IsName == isName) Replace(bytes, start, length, seed.AsSpan(other.Start, other.Length).ToArray());
                    break;
                default:
                    if (random.Next(2) == 0 && !isName) Replace(bytes, start, length, Encoding.UTF8.GetBytes(random.NextInt64(-4, 64).ToString(System.Globalization.CultureInfo.InvariantCulture)));
                    else if (length > 2) bytes[start + 1 + random.Next(length - 2)] = (byte)random.Next(32, 127);
                    break;
            }
        }
    }

    private void MutateByte(List<byte> bytes)
    {
        var at = random.Next(bytes.Count);
        switch (random.Next(7))
        {
            case 0: bytes[at] ^= (byte)(1 << random.Next(8)); break;
            case 1: bytes[at] = (byte)random.Next(256); break;
            case 2: bytes.Insert(at, (byte)random.Next(256)); break;
            case 3: bytes.RemoveAt(at); break;
            case 4: bytes.RemoveRange(at, Math.Min(random.Next(1, 64), bytes.Count - at)); break;
            case 5: bytes.InsertRange(at, bytes.GetRange(at, Math.Min(random.Next(1, 64), bytes.Count - at))); break;
            default: bytes.RemoveRange(at, random.Next(16) == 0 ? bytes.Count - at : 0); break;
        }
    }

    private static void Replace(List<byte> bytes, int start, int length, byte[] replacement)
    {
        bytes.RemoveRange(start, length);
        bytes.InsertRange(start, replacement);
    }
}
