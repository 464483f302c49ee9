using Google.Protobuf;

namespace Ernie.Sdk.Tests.Support;

/// <summary>Compares two protobuf encodings field by field, without a schema.</summary>
internal static class ProtobufBytes
{
    /// <summary>
    /// Both hold the same fields with the same values, the same number of times. Free are what a decoder does not see: the order of field numbers, explicit zeros and empty strings, and packed against single numbers.
    /// </summary>
    public static void Same(byte[] expected, byte[] actual, string path)
    {
        var (left, right) = (Fields(expected), Fields(actual));
        foreach (var field in left.Keys.Union(right.Keys))
        {
            var (a, b) = (left.GetValueOrDefault(field, []), right.GetValueOrDefault(field, []));
            if (a.Count > 0 && a.All(static value => value is ulong) && b is [byte[] packed]) b = [.. Numbers(packed)];
            if (b.Count == 0 && a is [0ul or byte[] { Length: 0 }]) continue;
            Assert.True(a.Count == b.Count, $"{path}/{field} stands {a.Count} times in one and {b.Count} times in the other.");
            for (var i = 0; i < a.Count; i++)
            {
                if (a[i] is byte[] x && b[i] is byte[] y)
                {
                    if (!x.AsSpan().SequenceEqual(y)) Same(x, y, $"{path}/{field}[{i}]");
                }
                else
                {
                    Assert.True(a[i].Equals(b[i]), $"{path}/{field}[{i}] is {a[i]} in one and {b[i]} in the other.");
                }
            }
        }
    }

    private static Dictionary<int, List<object>> Fields(byte[] message)
    {
        var fields = new Dictionary<int, List<object>>();
        var input = new CodedInputStream(message);
        for (var tag = input.ReadTag(); tag != 0; tag = input.ReadTag())
        {
            object value = (tag & 7) switch
            {
                0 => input.ReadUInt64(),
                1 => input.ReadFixed64(),
                2 => input.ReadBytes().ToByteArray(),
                5 => input.ReadFixed32(),
                var other => throw new InvalidDataException($"Wire type {other}."),
            };
            var number = (int)(tag >> 3);
            if (!fields.TryGetValue(number, out var values)) fields[number] = values = [];
            values.Add(value);
        }
        return fields;
    }

    private static IEnumerable<object> Numbers(byte[] packed)
    {
        var input = new CodedInputStream(packed);
        while (!input.IsAtEnd) yield return input.ReadUInt64();
    }
}
