using CsCheck;
using Ernie.Sdk.Tokenization;

namespace Ernie.Sdk.Tests.Tokenization;

public sealed class StreamingDecoderTests
{
    // Emoji, rare signs and unassigned planes go through byte tokens.
    private static readonly Gen<string> _texts = Gen.OneOf(
        "a", "the late fee", " ", "\n", "7", "é", "你好", "😀", "👩‍👩‍👧", "\u0E01\u0E35", "𝒳", "\U0010FFFF", "<|im_end|>", "</s>", "▁x")
        .Array[0, 20].Select(string.Concat);

    [Fact]
    public void Stream_EqualsDecode_AndNeverBreaksACharacter() => _texts.Sample(text =>
    {
        var tokenizer = Tokenizers.Tiny;
        var ids = tokenizer.EncodeToIds(text);
        var decoder = new StreamingDecoder(tokenizer, skipSpecialTokens: false);
        var parts = ids.Select(decoder.Append).ToList();

        Assert.Equal("", decoder.Finish());
        Assert.Equal(text.Replace('▁', ' '), string.Concat(parts));
        Assert.Equal(tokenizer.Decode(ids), string.Concat(parts));
        foreach (var part in parts)
        {
            Assert.DoesNotContain('\uFFFD', part);
            Assert.False(part.Length > 0 && (char.IsHighSurrogate(part[^1]) || char.IsLowSurrogate(part[0])));
        }
    }, iter: 300);

    [Fact]
    public void AnyIds_StreamAsTheyDecode() =>
        Gen.Select(Gen.Int[-2, 2050].Array[0, 30], Gen.Bool).Sample((ids, skip) =>
        {
            var decoder = new StreamingDecoder(Tokenizers.Tiny, skip);
            var text = string.Concat(ids.Select(decoder.Append)) + decoder.Finish();

            Assert.Equal(Tokenizers.Tiny.Decode(ids, skip), text);
        }, iter: 300);

    [Fact]
    public void AnyBytes_DecodeAsSentencePieceDoes()
    {
        // Bytes that are likely to begin, continue and break characters.
        var bytes = Gen.Int[0, 15].Select(i => (byte)new[] { 0x41, 0x80, 0xBF, 0x9F, 0xA0, 0xC3, 0xC0, 0xE0, 0xE4, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF, 0x90 }[i]).Array[0, 12];
        var tokenizer = Tokenizers.Tiny;
        bytes.Sample(run => Assert.Equal(OneReplacementPerByte(run), tokenizer.Decode(run.Select(b => tokenizer.Model.ByteId(b)))), iter: 2000);
    }

    [Fact]
    public void AnIncompleteCharacter_ComesOutBeforeWhatBreaksIt()
    {
        var tokenizer = Tokenizers.Tiny;
        var decoder = new StreamingDecoder(tokenizer, skipSpecialTokens: true);

        Assert.Equal("", decoder.Append(tokenizer.Model.ByteId(0xE4)));
        Assert.Equal("", decoder.Append(tokenizer.Model.ByteId(0xBD)));
        Assert.Equal("\uFFFD\uFFFD7", decoder.Append(tokenizer.TokenToId("7")!.Value));
        Assert.Equal("", decoder.Append(tokenizer.Model.ByteId(0xF0)));
        Assert.Equal("\uFFFD", decoder.Append(tokenizer.EosTokenId!.Value));
        Assert.Equal("", decoder.Append(tokenizer.Model.ByteId(0xE4)));
        Assert.Equal("\uFFFD", decoder.Finish());
    }

    [Fact]
    public void ATagOfTheOutputGrammar_SurvivesWhenSpecialTokensAreSkipped()
    {
        var tokenizer = Tokenizers.Tiny;
        int[] ids = [tokenizer.EosTokenId!.Value, tokenizer.TokenToId("</think>")!.Value, tokenizer.TokenToId("<tool_call>")!.Value, tokenizer.ClsTokenId!.Value];

        Assert.Equal("</think><tool_call>", tokenizer.Decode(ids, skipSpecialTokens: true));
    }

    private static string OneReplacementPerByte(byte[] bytes)
    {
        var text = "";
        for (var i = 0; i < bytes.Length;)
        {
            var length = Enumerable.Range(1, Math.Min(4, bytes.Length - i)).FirstOrDefault(n => IsOneCharacter(bytes.AsSpan(i, n)));
            text += length == 0 ? "\uFFFD" : System.Text.Encoding.UTF8.GetString(bytes, i, length);
            i += Math.Max(1, length);
        }
        return text;
    }

    private static bool IsOneCharacter(ReadOnlySpan<byte> bytes)
    {
        var value = bytes[0] switch { < 0x80 => bytes[0], < 0xC0 => -1, < 0xE0 => bytes[0] & 0x1F, < 0xF0 => bytes[0] & 0x0F, < 0xF8 => bytes[0] & 0x07, _ => -1 };
        var length = bytes[0] switch { < 0x80 => 1, < 0xE0 => 2, < 0xF0 => 3, _ => 4 };
        if (value < 0 || length != bytes.Length) return false;
        foreach (var b in bytes[1..])
        {
            if ((b & 0xC0) != 0x80) return false;
            value = (value << 6) | (b & 0x3F);
        }
        var least = length switch { 1 => 0, 2 => 0x80, 3 => 0x800, _ => 0x10000 };
        return value >= least && value <= 0x10FFFF && value is < 0xD800 or > 0xDFFF;
    }
}
