using CsCheck;
using Ernie.Sdk.Tokenization;

namespace Ernie.Sdk.Tests.Tokenization;

public sealed class SentencePieceModelTests
{
    private static readonly byte[] _tiny = File.ReadAllBytes(Path.Combine(Tokenizers.TinyFolder, "tokenizer.model"));

    [Fact]
    public void TinyModel_IsRead()
    {
        var model = SentencePieceModel.Parse(_tiny, "tokenizer.model");

        Assert.Equal(2000, model.PieceCount);
        Assert.Equal((PieceType.Unknown, PieceType.Control, PieceType.Control), (model.Type(0), model.Type(1), model.Type(2)));
        Assert.True(model.ByteFallback);
        Assert.False(model.AddDummyPrefix || model.RemoveExtraWhitespaces);
    }

    [Fact]
    public void Refusals_NameFileFindingAndCure()
    {
        var unknown = new SyntheticModel().Piece("<unk>", 0, PieceType.Unknown);
        Refused([], "empty");
        Refused("version https://git-lfs.github.com/spec/v1\n"u8.ToArray(), "git lfs pull");
        Refused(new SyntheticModel { ModelType = 1 }.Piece("<unk>", 0, PieceType.Unknown).Bytes().ToArray(), "unigram");
        Refused(new SyntheticModel { ModelType = 3 }.Piece("<unk>", 0, PieceType.Unknown).Bytes().ToArray(), "word");
        Refused(new SyntheticModel { ModelType = 4 }.Piece("<unk>", 0, PieceType.Unknown).Bytes().ToArray(), "char");
        Refused(new SyntheticModel { ModelType = 9 }.Piece("<unk>", 0, PieceType.Unknown).Bytes().ToArray(), "9");
        Refused(new SyntheticModel { SuffixMode = true }.Piece("<unk>", 0, PieceType.Unknown).Bytes().ToArray(), "suffix");
        Refused(new SyntheticModel { CharacterMap = [1, 2, 3] }.Piece("<unk>", 0, PieceType.Unknown).Bytes().ToArray(), "precompiled_charsmap");
        Refused(new SyntheticModel().Bytes().ToArray(), "type unknown");
        Refused(new SyntheticModel().Piece("<unk>", 0, PieceType.Unknown).Bytes(except: 0xA7).ToArray(), "<0xA7>");
        Refused(new SyntheticModel { ByteFallback = false }.Piece("<unk>", 0, PieceType.Unknown).Bytes().ToArray(), "no byte fallback");
        Refused(SyntheticModel.WithErnieLayout().Piece("a").Piece("a").ToArray(), "same text");
        Refused(SyntheticModel.WithErnieLayout().Piece("").ToArray(), "no text");
        Refused(SyntheticModel.WithErnieLayout().Piece("a", float.NaN).ToArray(), "score");
        Refused(SyntheticModel.WithErnieLayout().Piece("a", float.PositiveInfinity).ToArray(), "score");
        Refused(SyntheticModel.WithErnieLayout().Piece([0xC3, 0x28], 0, 1).ToArray(), "UTF-8");
        Refused(SyntheticModel.WithErnieLayout().Piece([0xED, 0xA0, 0x80], 0, 1).ToArray(), "UTF-8");
        Refused(SyntheticModel.WithErnieLayout().Piece("a"u8.ToArray(), 0, 7).ToArray(), "unknown type 7");
        Refused(SyntheticModel.WithErnieLayout().Piece("<0xfF>", 0, PieceType.Byte).ToArray(), "<0x00>");
        Refused(SyntheticModel.WithErnieLayout().Piece("<other>", 0, PieceType.Unknown).ToArray(), "both");
        Refused(SyntheticModel.WithErnieLayout().Piece(new string('a', 513)).ToArray(), "513");
        Refused([.. unknown.ToArray(), 0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x07], "beyond the end");
        Refused([.. unknown.ToArray(), 0x0A, 0xFF], "cut off");
        Refused([.. unknown.ToArray(), 0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02], "wire type");
        Refused([.. unknown.ToArray(), 0x70, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02], "64 bits");
        Refused([.. unknown.ToArray(), 0x73], "wire type 3");
        Refused([.. unknown.ToArray(), 0x02], "no field");
    }

    [Fact]
    public void UnknownFields_AreSkipped()
    {
        byte[] file = [.. SyntheticModel.WithErnieLayout().Piece("a").ToArray(), 0x70, 0x01, 0x71, 1, 2, 3, 4, 5, 6, 7, 8, 0x72, 0x02, 9, 9, 0x75, 1, 2, 3, 4];

        Assert.Equal(270, SentencePieceModel.Parse(file, "x").PieceCount);
    }

    [Fact]
    public void EveryCutFile_IsRefusedOrRead()
    {
        for (var length = 0; length < _tiny.Length; length += 97) ReadOrRefuse(_tiny.AsSpan(0, length));
    }

    [Fact]
    public void MutatedFiles_AreRefusedOrRead()
    {
        var edits = Gen.Select(Gen.Int[0, _tiny.Length - 1], Gen.Byte, Gen.Int[0, 3]).Array[1, 6];
        edits.Sample(
            some =>
            {
                List<byte> file = [.. _tiny];
                foreach (var (position, value, kind) in some)
                {
                    var at = Math.Min(position, file.Count - 1);
                    if (kind == 0) file.Insert(at, value);
                    else if (kind == 1) file.RemoveAt(at);
                    else file[at] = value;
                }
                ReadOrRefuse([.. file]);
            },
            iter: 300);
    }

    [Fact]
    public void FilesOfLongPieces_Load()
    {
        // Each cut of each piece has to be looked up; 1,000 pieces of 500 characters have half a million.
        var model = SyntheticModel.WithErnieLayout().Piece("a");
        for (var i = 0; i < 1000; i++) model.Piece(new string('a', 480) + Convert.ToString(i, 2).PadLeft(20, 'b').Replace('0', 'b').Replace('1', 'a'));

        Assert.NotEmpty(Tokenizers.Encode(model.Parse(), new string('a', 1000)));
    }

    [Fact]
    public void FilesWithTooManyMerges_AreRefused()
    {
        // All windows of one text: every cut of every piece is a merge.
        var letters = new string([.. Enumerable.Range(0, 200).Select(i => (char)(0x4E00 + i))]);
        var model = SyntheticModel.WithErnieLayout();
        for (var length = 1; length <= 150; length++)
        {
            for (var start = 0; start + length <= letters.Length; start++) model.Piece(letters.Substring(start, length));
        }

        var error = Assert.Throws<InvalidDataException>(() => Tokenizers.Encode(model.Parse(), "x"));
        Assert.Contains("synthetic.model", error.Message, StringComparison.Ordinal);
    }

    private static void ReadOrRefuse(ReadOnlySpan<byte> file)
    {
        try
        {
            var model = SentencePieceModel.Parse(file, "mutated.model");
            Tokenizers.Encode(model, "The late fee is 4,812 yuan per day. 你好 \uD800 </s>");
        }
        catch (InvalidDataException error)
        {
            Assert.Contains("mutated.model", error.Message, StringComparison.Ordinal);
        }
    }

    private static void Refused(byte[] file, string because)
    {
        var error = Assert.Throws<InvalidDataException>(() => SentencePieceModel.Parse(file, "folder/tokenizer.model"));
        Assert.StartsWith("folder/tokenizer.model ", error.Message, StringComparison.Ordinal);
        Assert.Contains(because, error.Message, StringComparison.Ordinal);
    }
}
