using CsCheck;
using System.Text.Json;
using Ernie.Sdk.Chat.Templates;

namespace Ernie.Sdk.Tests.Chat.Templates;

public sealed class PythonJsonTests
{
    // Right-hand sides printed by Python: json.dumps(json.loads(text), ensure_ascii=False).
    [Theory]
    [InlineData("""{"b":1,"a":[true,false,null,{}],"c":[]}""", """{"b": 1, "a": [true, false, null, {}], "c": []}""")]
    [InlineData("""{"a":1,"b":2,"a":3}""", """{"a": 3, "b": 2}""")]
    [InlineData("""{"a":[{"":""}]}""", """{"a": [{"": ""}]}""")]
    [InlineData("""["<b>&'/ \u4f60 \ud83d\ude00 \u2028 \u007f"]""", "[\"<b>&'/ 你 😀 \u2028 \u007f\"]")]
    [InlineData("""["\"\\\/\b\f\n\r\t\u0000\u001f"]""", """["\"\\/\b\f\n\r\t\u0000\u001f"]""")]
    [InlineData("""{"\u00e9\n":"\n"}""", """{"é\n": "\n"}""")]
    [InlineData("[1.0, 1.50, 1E5, 1e16, 1e15, 123456789012345680.0, 9999999999999998.0]", "[1.0, 1.5, 100000.0, 1e+16, 1000000000000000.0, 1.2345678901234568e+17, 9999999999999998.0]")]
    [InlineData("[0.1, 0.0001, 0.00001, 1e-07, 1.5e-10, 5e-324, 1.7976931348623157e308]", "[0.1, 0.0001, 1e-05, 1e-07, 1.5e-10, 5e-324, 1.7976931348623157e+308]")]
    [InlineData("[-0.0, -1.5, -2e22, 1e400, -1e400, 0e5, 100.25, 1e1]", "[-0.0, -1.5, -2e+22, Infinity, -Infinity, 0.0, 100.25, 10.0]")]
    [InlineData("[12345678901234567890, -3, -0, 0]", "[12345678901234567890, -3, 0, 0]")]
    public void Serialize_PrintsWhatPythonPrints(string json, string expected) => Assert.Equal(expected, PythonJson.Serialize(JsonDocument.Parse(json).RootElement));

    [Fact]
    public void Serialize_KeepsHalvesOfSurrogatePairs() =>
        Assert.Equal("{\"\uD83D\": \"\uDE00\"}", PythonJson.Serialize(JsonDocument.Parse("""{"\ud83d":"\ude00"}""").RootElement));

    [Fact]
    public void Numbers_KeepTheirValue() =>
        Check.Sample(Gen.ULong.Select(bits => BitConverter.UInt64BitsToDouble(bits)).Where(double.IsFinite), value => Assert.Equal(value, double.Parse(PythonJson.Number(value), System.Globalization.CultureInfo.InvariantCulture)));

    [Fact]
    public void Serialize_RefusesAnUndefinedValue() => Assert.Throws<ArgumentException>(() => PythonJson.Serialize(default(JsonElement)));
}
