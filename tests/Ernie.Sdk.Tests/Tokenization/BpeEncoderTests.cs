using CsCheck;
using Ernie.Sdk.Tests.Support;
using Ernie.Sdk.Tokenization;

namespace Ernie.Sdk.Tests.Tokenization;

public sealed class BpeEncoderTests
{
    // Letters that merge, digits, marks, line ends, an emoji, a lone surrogate, an unknown character.
    private static readonly Gen<string> _texts = Gen.OneOf(
        "a", "b", "c", "d", "aa", "ab", "abc", " ", "  ", "\u2581", "\n", "\t", "1", "23", "<", "s", ">", "/", "</s>", "<s>", "é", "你", "好", "😀", "\uD83D", "\uDE00", "\u0E01")
        .Array[0, 40].Select(string.Concat);

    [Fact]
    public void Ties_GoToTheLeft()
    {
        var model = SyntheticModel.WithErnieLayout().Piece("aa").Piece("a", -9).Parse();

        Assert.Equal(["aa", "a"], Tokenizers.Pieces(model, "aaa"));
        Assert.Equal(["aa", "aa", "a"], Tokenizers.Pieces(model, "aaaaa"));
    }

    [Fact]
    public void EqualScores_OfDifferentPiecesAreTiesToo()
    {
        var model = SyntheticModel.WithErnieLayout().Piece("bc", -1).Piece("ab", -1).Piece("a", -9).Piece("b", -9).Piece("c", -9).Parse();

        Assert.Equal(["ab", "c"], Tokenizers.Pieces(model, "abc"));
    }

    [Fact]
    public void ControlPieces_NeverComeFromText()
    {
        var model = SyntheticModel.WithErnieLayout()
            .Piece("s>", -1).Piece("</", -2).Piece("<", -9).Piece("s", -9).Piece(">", -9).Piece("/", -9).Parse();

        Assert.Equal(["</", "s>"], Tokenizers.Pieces(model, "</s>"));
        Assert.Equal(["<", "s>"], Tokenizers.Pieces(model, "<s>"));
    }

    [Fact]
    public void UserDefinedPieces_NeverMerge()
    {
        var model = SyntheticModel.WithErnieLayout().Piece("1a", -1).Piece("a", -9).Piece("12", -1).Piece("xyz", 0, PieceType.UserDefined).Piece("zz", 0).Piece("z", -9).Parse();

        Assert.Equal(["1", "2", "a", "1", "a"], Tokenizers.Pieces(model, "12a1a"));
        Assert.Equal(["xyz", "zz"], Tokenizers.Pieces(model, "xyzzz"));
    }

    [Fact]
    public void UnusedPieces_AreSplitAgain()
    {
        var model = SyntheticModel.WithErnieLayout()
            .Piece("ab", -1).Piece("abc", -2, PieceType.Unused).Piece("abcd", -3).Piece("a", -9).Piece("b", -9).Piece("c", -9).Piece("d", -9).Piece("q", -9, PieceType.Unused).Parse();

        Assert.Equal(["ab", "c"], Tokenizers.Pieces(model, "abc"));
        Assert.Equal(["abcd"], Tokenizers.Pieces(model, "abcd"));
        Assert.Equal(["q"], Tokenizers.Pieces(model, "q"));
    }

    [Fact]
    public void Merges_CanPassThroughACharacterWithoutAPiece()
    {
        var model = SyntheticModel.WithErnieLayout().Piece("ab", -1).Piece("a", -9).Parse();

        Assert.Equal(["ab", "<0x62>"], Tokenizers.Pieces(model, "abb"));
    }

    [Fact]
    public void LoneSurrogates_BecomeReplacementCharacters()
    {
        var model = SyntheticModel.WithErnieLayout().Piece("a").Parse();

        string[] replacement = ["<0xEF>", "<0xBF>", "<0xBD>"];
        Assert.Equal(["a", .. replacement, "a"], Tokenizers.Pieces(model, "a\uD83Da"));
        Assert.Equal([.. replacement, .. replacement], Tokenizers.Pieces(model, "\uDE00\uD83D"));
        Assert.Equal(["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"], Tokenizers.Pieces(model, "\uD83D\uDE00"));
    }

    [Fact]
    public void WhitespaceFlags_AreHonoured()
    {
        static SentencePieceModel Model(bool prefix, bool remove) => SyntheticModel.WithErnieLayout(prefix, remove).Piece("a").Piece("\u2581", -9).Parse();

        Assert.Equal(["\u2581", "a"], Tokenizers.Pieces(Model(prefix: true, remove: false), "a"));
        Assert.Equal(["\u2581", "\u2581", "a", "\u2581"], Tokenizers.Pieces(Model(prefix: true, remove: false), " a "));
        Assert.Equal(["a", "\u2581", "a"], Tokenizers.Pieces(Model(prefix: false, remove: true), "  a   a  "));
        Assert.Equal(["a"], Tokenizers.Pieces(Model(prefix: false, remove: true), "a"));
        Assert.Equal(["\u2581", "a"], Tokenizers.Pieces(Model(prefix: true, remove: true), "  a "));
        Assert.Empty(Tokenizers.Pieces(Model(prefix: true, remove: true), "   "));
        Assert.Empty(Tokenizers.Pieces(Model(prefix: true, remove: false), ""));
    }

    [Fact]
    public void WithoutByteFallback_ARunOfUnknownCharactersIsOneToken()
    {
        var model = new SyntheticModel { ByteFallback = false }.Piece("<unk>", 0, PieceType.Unknown).Piece("a").Parse();

        Assert.Equal(["a", "<unk>", "a"], Tokenizers.Pieces(model, "axyza"));
    }

    [Theory]
    [InlineData(false, false, false)]
    [InlineData(false, false, true)]
    [InlineData(true, false, false)]
    [InlineData(true, true, true)]
    public void Encoder_EqualsTheNaiveOne_OnSyntheticModels(bool prefix, bool remove, bool unused)
    {
        // Scores from a small range give ties; pieces with U+2581 inside switch off the cut before it.
        var pieces = Gen.OneOf("a", "b", "c", "d", "\u2581", "<", "s", ">", "/", "你", "😀", "é").Array[1, 4].Select(string.Concat);
        var model = Gen.Select(pieces, Gen.Int[-4, 0], Gen.Bool).Array[0, 30].Select(rows =>
        {
            var synthetic = SyntheticModel.WithErnieLayout(prefix, remove).Piece("xx1", 0, PieceType.UserDefined);
            foreach (var (text, score, isUnused) in rows.DistinctBy(row => row.Item1).Where(row => row.Item1 is not "<s>" and not "</s>"))
            {
                synthetic.Piece(text, score, unused && isUnused ? PieceType.Unused : PieceType.Normal);
            }
            return synthetic.Parse();
        });

        Gen.Select(model, _texts).Sample((m, text) => Assert.Equal(new NaiveBpe(m).Encode(text), Tokenizers.Encode(m, text)), iter: 400);
    }

    [Fact]
    public void Encoder_EqualsTheNaiveOne_OnTheTinyModel()
    {
        var naive = new NaiveBpe(Tokenizers.Tiny.Model);
        Gen.OneOf(_texts, Words()).Sample(text => Assert.Equal(naive.Encode(text), Tokenizers.Encode(Tokenizers.Tiny.Model, text)), iter: 60);
    }

    [Fact]
    public void Encoder_EqualsTheNaiveOne_OnTheRealModel()
    {
        var naive = new NaiveBpe(Tokenizers.Real.Model);
        Gen.OneOf(_texts, Words()).Sample(text => Assert.Equal(naive.Encode(text), Tokenizers.Real.EncodeToIds(text)), iter: 500);
    }

    [Fact]
    public void LongWords_EqualTheNaiveOnes()
    {
        // Longer than what is merged by scanning, so the heap is compared as well.
        var naive = new NaiveBpe(Tokenizers.Real.Model);
        Gen.OneOf("a", "e", "n", "t", "th", "=", "你", "的", "是").Array[60, 160].Select(string.Concat)
            .Sample(text => Assert.Equal(naive.Encode(text), Tokenizers.Real.EncodeToIds(text)), iter: 60);
    }

    [Theory]
    [InlineData("a")]
    [InlineData(" ")]
    [InlineData("=")]
    [InlineData("1")]
    [InlineData("\n")]
    [InlineData("的")]
    [InlineData("😀")]
    [InlineData("<|LOC_")]
    public void AMillionEqualCharacters_AreEncodedAndDecoded(string unit)
    {
        var text = string.Concat(Enumerable.Repeat(unit, 1_000_000 / unit.Length));
        var tokenizer = Tokenizers.Tiny;

        Assert.Equal(text, tokenizer.Decode(tokenizer.EncodeToIds(text, allowSpecialTokens: true)));
    }

    [Fact]
    public void ConcurrentCalls_GiveTheSameIds()
    {
        var lines = File.ReadAllLines(Path.Combine(Tokenizers.TinyFolder, "README.md"));
        var expected = lines.Select(line => Tokenizers.Tiny.EncodeToIds(line).ToArray()).ToArray();
        var shared = ErnieTokenizer.Load(Tokenizers.TinyFolder);

        Parallel.For(0, 8, round =>
        {
            for (var i = 0; i < lines.Length; i++)
            {
                var line = (i * 7 + round) % lines.Length;
                Assert.Equal(expected[line], shared.EncodeToIds(lines[line]));
            }
        });
    }

    private static Gen<string> Words()
    {
        var words = File.ReadAllText(Path.Combine(Tokenizers.TinyFolder, "README.md")).Split(' ');
        return Gen.OneOf(words).Array[0, 12].Select(some => string.Join(' ', some));
    }
}
