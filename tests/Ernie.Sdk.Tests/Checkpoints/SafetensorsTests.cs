using System.Text;
using CsCheck;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Tests.Checkpoints;

public class SafetensorsTests
{
    [Theory]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}""", "JSON")]
    [InlineData("""[]""", "not a JSON object")]
    [InlineData("", "JSON")]
    [InlineData("""{"a":5}""", "expected an object")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[0],"data_offsets":[8,8]}}""", "twice")]
    [InlineData("""{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}""", "unknown dtype 'F33'")]
    [InlineData("""{"a":{"shape":[2],"data_offsets":[0,8]}}""", "expected dtype")]
    [InlineData("""{"a":{"dtype":"F32","data_offsets":[0,8]}}""", "expected dtype")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}}""", "two data_offsets")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,16]}}""", "more than 2")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}""", "shape is given twice")]
    [InlineData("""{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}""", "whole numbers from 0")]
    [InlineData("""{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,6]}}""", "whole numbers from 0")]
    [InlineData("""{"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}}""", "whole numbers from 0")]
    [InlineData("""{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}""", "more than 8")]
    [InlineData("""{"a":{"dtype":"F32","shape":[9223372036854775807,9223372036854775807,4],"data_offsets":[0,8]}}""", "does not take the 8 bytes")]
    [InlineData("""{"a":{"dtype":"F32","shape":[4611686018427387904,2],"data_offsets":[0,0]}}""", "does not take the 0 bytes")]
    [InlineData("""{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}""", "does not take the 8 bytes")]
    [InlineData("""{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}""", "does not take the 2 bytes")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}""", "do not lie in")]
    [InlineData("""{"a":{"dtype":"F32","shape":[5],"data_offsets":[0,20]}}""", "truncated")]
    [InlineData("""{"a":{"dtype":"F32","shape":[1],"data_offsets":[9223372036854775803,9223372036854775807]}}""", "do not lie in")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}""", "overlap")]
    [InlineData("""{"\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", "JSON")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} {}""", "JSON")]
    [InlineData("""{"__metadata__":[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]}""", "JSON")]
    public void BadHeaders_AreRefused(string header, string reason)
    {
        var e = Assert.Throws<InvalidDataException>(() => SafetensorsHeader.Parse(Encoding.UTF8.GetBytes(header), 16, "x.safetensors"));
        Assert.Contains(reason, e.Message, StringComparison.Ordinal);
        Assert.StartsWith("x.safetensors: ", e.Message, StringComparison.Ordinal);
        Assert.EndsWith("Download the file again.", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""{}""")]
    [InlineData("""{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"future":{"x":[1]}}}   """)]
    [InlineData("""{"hole":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}""")]
    [InlineData("""{"empty":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]},"scalar":{"dtype":"F64","shape":[],"data_offsets":[0,8]}}""")]
    [InlineData("""{"half":{"dtype":"F4","shape":[2,2],"data_offsets":[0,2]}}""")]
    public void SoundHeaders_AreAccepted(string header) => SafetensorsHeader.Parse(Encoding.UTF8.GetBytes(header), 16, "x.safetensors");

    [Fact]
    public void Header_OfBadUtf8IsRefused()
    {
        var e = Assert.Throws<InvalidDataException>(() => SafetensorsHeader.Parse([(byte)'{', (byte)'"', 0xC3, 0x28, (byte)'"', (byte)'}'], 16, "x"));
        Assert.Contains("UTF-8", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0, "empty")]
    [InlineData(7, "cut short")]
    public void ShortFiles_AreRefused(int length, string reason) => AssertRefused(new byte[length], reason);

    [Fact]
    public void HeaderLongerThanFile_IsRefused()
    {
        AssertRefused([255, 255, 255, 255, 255, 255, 255, 255, 1, 2], "header of 18446744073709551615 bytes");
        AssertRefused([255, 224, 245, 5, 0, 0, 0, 0, 1, 2], "header of");
        AssertRefused([3, 0, 0, 0, 0, 0, 0, 0, 1, 2], "header of 3 bytes");
    }

    [Fact]
    public void LfsPointer_IsNamed() => AssertRefused(Encoding.ASCII.GetBytes("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), "git lfs pull");

    [Fact]
    public void TruncatedFile_IsRefusedWithItsTensor()
    {
        var whole = SafetensorsWriter.ToBytes([EncodedTensor.Of("w", StoredType.Float32, [4], [1, 2, 3, 4])]);
        AssertRefused(whole[..^1], "tensor 'w'");
    }

    [Fact]
    public void UnalignedData_IsRead()
    {
        // A header of odd length puts every element at an odd address.
        using var folder = new TemporaryFolder();
        var values = Enumerable.Range(0, 37).Select(static i => (float)i).ToArray();
        foreach (var type in Enum.GetValues<StoredType>())
        {
            var data = EncodedTensor.Of("w", type, [37], values).Data;
            var header = $$$"""{"w":{"dtype":"{{{EncodedTensor.Of("w", type, [0], []).ElementType}}}","shape":[37],"data_offsets":[0,{{{data.Length}}}]}}""";
            if ((header.Length & 1) == 0) header += " ";
            var file = SafetensorsWriter.ToBytes(header, data.Length);
            data.CopyTo(file, file.Length - data.Length);
            var path = folder.File($"{type}.safetensors");
            File.WriteAllBytes(path, file);
            using var opened = SafetensorsFile.Open(path);
            var tensor = new RowMajorTensor { Name = "w", File = path, Rows = 1, Columns = 37, Type = type, Source = opened, Entry = opened.Entries[0], Offset = 0 };
            var read = new float[37];
            tensor.Read(0, read);
            Assert.Equal(values, read);
        }
    }

    [Fact]
    public void AnyHeader_IsReadOrRefused()
    {
        var number = Gen.OneOf(Gen.Long[-2, 20], Gen.Long);
        var entry = Gen.Select(Gen.OneOf("F32", "BF16", "I8", "F4", "X"), Gen.Long[0, 6].Array[0, 3], number, number);
        Gen.Select(Gen.OneOf("a", "b", "c"), entry).Array[0, 4].Sample(entries =>
        {
            var json = "{" + string.Join(",", entries.Select(static e => $$"""
                "{{e.Item1}}":{"dtype":"{{e.Item2.Item1}}","shape":[{{string.Join(",", e.Item2.Item2)}}],"data_offsets":[{{e.Item2.Item3}},{{e.Item2.Item4}}]}
                """)) + "}";
            try
            {
                foreach (var read in SafetensorsHeader.Parse(Encoding.UTF8.GetBytes(json), 18, "x"))
                {
                    Assert.InRange(read.Begin, 0, read.End);
                    Assert.InRange(read.End, read.Begin, 18);
                }
            }
            catch (InvalidDataException) { }
        }, iter: 2000, threads: 1);
    }

    private static void AssertRefused(byte[] content, string reason)
    {
        using var folder = new TemporaryFolder();
        File.WriteAllBytes(folder.File("x.safetensors"), content);
        var e = Assert.Throws<InvalidDataException>(() => SafetensorsFile.Open(folder.File("x.safetensors")));
        Assert.Contains(reason, e.Message, StringComparison.Ordinal);
        Assert.StartsWith($"{folder.File("x.safetensors")}: ", e.Message, StringComparison.Ordinal);
        // A refused file is closed again.
        File.Delete(folder.File("x.safetensors"));
    }
}
