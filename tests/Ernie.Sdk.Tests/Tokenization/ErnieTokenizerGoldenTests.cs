using System.Text.Json;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Tokenization;

public sealed class ErnieTokenizerGoldenTests
{
    [Fact]
    public void OrdinaryText_EncodesAndDecodesAsSentencePiece()
    {
        var count = 0;
        foreach (var row in Rows("golden.jsonl"))
        {
            var text = row.GetProperty("text").GetString()!;
            var ids = Ids(row, "ids");
            Assert.Equal(ids, Tokenizers.Real.EncodeToIds(text));
            Assert.Equal(ids.Length, Tokenizers.Real.CountTokens(text));
            Assert.Equal(row.GetProperty("decoded").GetString(), Tokenizers.Real.Decode(ids));
            count++;
        }
        Assert.Equal(800, count);
    }

    [Fact]
    public void AddedTokens_AreSplitOutAsTransformersDoes()
    {
        var count = 0;
        foreach (var row in Rows("added_tokens_golden.jsonl"))
        {
            var text = row.GetProperty("text").GetString()!;
            var ids = Ids(row, "ids");
            Assert.Equal(ids, Tokenizers.Real.EncodeToIds(text, allowSpecialTokens: true));
            Assert.Equal(Ids(row, "ids_plain"), Tokenizers.Real.EncodeToIds(text, allowSpecialTokens: false));
            Assert.Equal(Ids(row, "ids_plain"), Tokenizers.Real.EncodeToIds(text));
            Assert.Equal(row.GetProperty("decoded").GetString(), Tokenizers.Real.Decode(ids));
            Assert.Equal(row.GetProperty("decoded_skip_special").GetString(), Tokenizers.Real.Decode(ids, skipSpecialTokens: true));
            count++;
        }
        Assert.Equal(75, count);
    }

    [Theory]
    [InlineData("The following string should be properly encoded: Hello.", "700 1997 1530 1189 390 10962 20622 93963 30802 93937")]
    [InlineData("But ird and ปี   ird   ด", "2398 93919 2080 326 93919 81175 1111 2080 1111 95676")]
    [InlineData("A sample test", "93957 3983 1167")]
    [InlineData("This is a test", "1720 357 274 1167")]
    [InlineData("Hey<eos>. \t\t \n\nyou  é  @#😈  🤗!       , 1234 15 5,61", "25027 93953 92335 6140 93919 22 22 93919 23 23 5557 269 94039 269 94027 93993 253 172 165 149 269 253 172 177 164 94018 426 1089 93919 4 5 6 7 93919 4 8 93919 8 93938 9 4")]
    [InlineData("", "")]
    [InlineData(" ", "93919")]
    [InlineData("  ", "269")]
    [InlineData(" Hello", "30802")]
    [InlineData("<s>", "1")]
    [InlineData("hello", "18830")]
    [InlineData("lekacy", "17289 3004")]
    [InlineData("<s> Hello<s>how", "1 30802 1 7413")]
    [InlineData(" <s> Hello<s> how", "93919 1 30802 1 1299")]
    [InlineData(" well", "1622")]
    [InlineData(" Today", "25062")]
    [InlineData("Once upon a time", "15952 4135 274 960")]
    [InlineData("Here is my poem:", "8034 357 851 45954 93963")]
    [InlineData("User: ", "2969 93963 93919")]
    [InlineData("\nAssistant:\n", "23 92267 93963 23")]
    [InlineData("Hello wörld 你好 é😀", "16276 296 2235 494 93919 5300 1697 253 172 165 141")]
    [InlineData("User: 你好\nAssistant: ", "2969 93963 93919 5300 23 92267 93963 93919")]
    [InlineData("2024 年 12 月", "5 3 5 7 3890 93919 4 5 8841")]
    public void PublishedIds_AreReproduced(string text, string ids)
    {
        var expected = ids.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(int.Parse).ToArray();

        Assert.Equal(expected, Tokenizers.Real.EncodeToIds(text, allowSpecialTokens: true));
        Assert.Equal(text, Tokenizers.Real.Decode(expected));
    }

    [Fact]
    public void Decode_ReproducesPublishedTexts()
    {
        Assert.Equal("ا .", Tokenizers.Real.Decode([94014, 663]));
        Assert.Equal("234W </", Tokenizers.Real.Decode([5, 6, 7, 100, 2000, 1, 2, 100295], skipSpecialTokens: true));
        Assert.Equal("15 663", Tokenizers.Real.Decode(Tokenizers.Real.EncodeToIds("15 663")));
        Assert.Equal("é\uFFFD", Tokenizers.Real.Decode([208, 182, 253]));
    }

    [Fact]
    public void Vocabulary_IsTheRealOne()
    {
        var tokenizer = Tokenizers.Real;
        Assert.Equal(101304, tokenizer.VocabularySize);
        Assert.Equal((1, 2, 100273, 100272), (tokenizer.BosTokenId, tokenizer.EosTokenId, tokenizer.ClsTokenId, tokenizer.SepTokenId));
        Assert.Equal(100297, tokenizer.TokenToId("<|LOC_0|>"));
        Assert.Equal("<|IMAGE_SEP|>", tokenizer.IdToToken(101303));
        Assert.Equal(30802, tokenizer.TokenToId("\u2581Hello"));
        Assert.Null(tokenizer.TokenToId("<think>"));
        Assert.Null(tokenizer.IdToToken(101304));
        Assert.True(tokenizer.IsDefined(101303));
        Assert.False(tokenizer.IsDefined(101304));
        Assert.False(tokenizer.IsDefined(-1));
        Assert.True(tokenizer.IsSpecial(100274));
        Assert.False(tokenizer.IsSpecial(100275));
        Assert.False(tokenizer.IsSpecial(5));
    }

    [Fact]
    public void AddedTokens_HoldTheirIdsAndNothingElse()
    {
        // 1,029 in transformers, which counts the ten digits; they stay with SentencePiece here.
        var tokenizer = Tokenizers.Real;
        Assert.Equal(1019, Enumerable.Range(0, tokenizer.VocabularySize).Count(id => tokenizer.TryGetAdded(id, out _)));
    }

    private static IEnumerable<JsonElement> Rows(string file) =>
        File.ReadLines(SharedData.Path("tokenizer", file)).Select(line => JsonDocument.Parse(line).RootElement);

    private static int[] Ids(JsonElement row, string name) => [.. row.GetProperty(name).EnumerateArray().Select(id => id.GetInt32())];
}
