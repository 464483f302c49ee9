using System.Buffers;
using CsCheck;
using Ernie.Sdk.Tokenization;
using Microsoft.ML.Tokenizers;

namespace Ernie.Sdk.Tests.Tokenization;

public sealed class ErnieTokenizerTests
{
    private static readonly Gen<string> _texts = Gen.OneOf("the fee", "x", " ", "\n", "12", "你好", "😀", "é", "</s>", "<|im_end|>").Array[1, 14].Select(string.Concat);

    [Fact]
    public void Tokens_CoverTheText() => _texts.Sample(text =>
    {
        var tokens = Tokenizers.Tiny.EncodeToTokens(text, out var normalized);

        Assert.Null(normalized);
        Assert.Equal(Tokenizers.Tiny.EncodeToIds(text), tokens.Select(token => token.Id));
        Assert.Equal(tokens.Select(token => Tokenizers.Tiny.IdToToken(token.Id)), tokens.Select(token => token.Value));
        var position = 0;
        foreach (var token in tokens)
        {
            var (start, length) = token.Offset.GetOffsetAndLength(text.Length);
            Assert.True(length > 0 && (start == position || start + length == position));
            position = start + length;
            if (!token.Value.StartsWith("<0x", StringComparison.Ordinal)) Assert.Equal(token.Value.Replace('▁', ' '), text[token.Offset]);
        }
        Assert.Equal(text.Length, position);
    }, iter: 200);

    [Fact]
    public void Tokens_OfAModelThatChangesWhitespace_PointIntoTheOriginal()
    {
        var model = SyntheticModel.WithErnieLayout(addDummyPrefix: true, removeExtraWhitespaces: true).Piece("\u2581a", -1).Piece("a", -9).Piece("\u2581", -9).Parse();
        var ids = new List<int>();
        var ranges = new List<(int, int)>();
        new BpeEncoder(model, new HashSet<int>()).Encode("  a   a1 ", ids, ranges);

        Assert.Equal(["\u2581a", "\u2581a", "1"], ids.Select(model.Piece));
        Assert.Equal([(2, 3), (3, 7), (7, 9)], ranges);
    }

    [Fact]
    public void Limits_CutBetweenCharacters() => Gen.Select(_texts, Gen.Int[1, 20]).Sample((text, limit) =>
    {
        Tokenizer tokenizer = Tokenizers.Tiny;
        var all = tokenizer.EncodeToIds(text);
        var first = tokenizer.EncodeToIds(text, limit, out _, out var consumed);
        Assert.True(first.Count <= limit);
        Assert.Equal(all.Take(first.Count), first);
        Assert.Equal(text[..consumed], tokenizer.Decode(first));

        Assert.Equal(consumed, tokenizer.GetIndexByTokenCount(text, limit, out _, out var count));
        Assert.Equal(first.Count, count);

        var index = tokenizer.GetIndexByTokenCountFromEnd(text, limit, out _, out var last);
        Assert.True(last <= limit);
        Assert.Equal(text[index..], tokenizer.Decode(all.TakeLast(last)));
        Assert.True(Math.Min(limit, all.Count) - last < 4);
    }, iter: 300);

    [Fact]
    public void Decode_IntoABuffer_StopsAtWholeCharactersAndGoesOn() => Gen.Select(_texts, Gen.Int[2, 30]).Sample((text, size) =>
    {
        var tokenizer = Tokenizers.Tiny;
        var rest = tokenizer.EncodeToIds(text).ToList();
        var decoded = "";
        while (true)
        {
            var buffer = new char[Math.Max(size, 12)];
            var status = tokenizer.Decode(rest, buffer, out var consumed, out var written);
            decoded += new string(buffer, 0, written);
            rest.RemoveRange(0, consumed);
            if (status == OperationStatus.Done) break;
            Assert.Equal(OperationStatus.DestinationTooSmall, status);
            Assert.True(consumed > 0);
        }
        Assert.Empty(rest);
        Assert.Equal(text, decoded);
    }, iter: 200);

    [Fact]
    public void Decode_IntoABuffer_ReportsAnIdWithoutAToken()
    {
        Assert.Equal(OperationStatus.InvalidData, Tokenizers.Tiny.Decode([3, 4, 2047], new char[10], out var consumed, out var written));
        Assert.Equal((2, 2), (consumed, written));
    }

    [Fact]
    public void ControlStrings_InTextAreText()
    {
        // The tiny model has its tags as user-defined pieces, which plain SentencePiece would cut out.
        var tokenizer = Tokenizers.Tiny;
        foreach (var tag in new[] { "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|end_of_sentence|>", "<think>", "</tool_call>", "<mask:1>" })
        {
            var id = tokenizer.TokenToId(tag)!.Value;
            Assert.DoesNotContain(id, tokenizer.EncodeToIds("a " + tag + tag + "b"));
            Assert.Equal([id, id], tokenizer.EncodeToIds(tag + tag, allowSpecialTokens: true));
            Assert.Equal("a " + tag, tokenizer.Decode(tokenizer.EncodeToIds("a " + tag)));
        }
    }

    [Fact]
    public void ControlStrings_CannotBeMergedFromText()
    {
        // Merges lead up to the token; a checkpoint that adds it must not let text produce it.
        using var folder = new TemporaryFolder();
        var model = SyntheticModel.WithErnieLayout().Piece("<x", -1).Piece("<x>", -2).Piece("<x>y", -3).Piece("<", -9).Piece("x", -9).Piece(">", -9).Piece("y", -9);
        File.WriteAllBytes(folder.File("tokenizer.model"), model.ToArray());
        Assert.Equal([270], ErnieTokenizer.Load(folder.Path).EncodeToIds("<x>"));

        File.WriteAllText(folder.File("special_tokens_map.json"), """{"mask_token": {"content": "<x>", "lstrip": false}}""");
        var tokenizer = ErnieTokenizer.Load(folder.Path);

        Assert.Equal(["<x", ">", "y"], tokenizer.EncodeToIds("<x>y").Select(id => tokenizer.IdToToken(id)));
        Assert.Equal(["<x>", "y"], tokenizer.EncodeToIds("<x>y", allowSpecialTokens: true).Select(id => tokenizer.IdToToken(id)));
    }
}
