using Ernie.Sdk.Tokenization;

namespace Ernie.Sdk.Tests.Tokenization;

public sealed class AddedTokensTests
{
    [Fact]
    public void Sources_FollowTheirPrecedence()
    {
        using var folder = NewFolder(
            ("added_tokens.json", """{"<a>": 400, "<b>": 401, "<c>": 402}"""),
            ("special_tokens_map.json", """{"eos_token": "<a>", "sep_token": {"content": "<b>"}, "additional_special_tokens": ["<a>", {"content": "<b>"}]}"""),
            ("tokenizer_config.json", """{"eos_token": "</s>", "added_tokens_decoder": {"401": {"content": "<b>", "special": false}, "403": {"content": "<d>", "special": true}, "402": {"content": "<e>"}}}"""));
        var tokenizer = ErnieTokenizer.Load(folder.Path);

        Assert.Equal((2, 401), (tokenizer.EosTokenId, tokenizer.SepTokenId));
        Assert.Equal((true, false, false, true), (tokenizer.IsSpecial(400), tokenizer.IsSpecial(401), tokenizer.IsSpecial(402), tokenizer.IsSpecial(403)));
        Assert.Equal("<e>", tokenizer.IdToToken(402));
        Assert.Null(tokenizer.TokenToId("<c>"));
        Assert.Equal(404, tokenizer.VocabularySize);
        Assert.False(tokenizer.IsDefined(399));
        Assert.Equal([400, 403, 402], tokenizer.EncodeToIds("<a><d><e>", allowSpecialTokens: true));
        Assert.Equal("<b><e>", tokenizer.Decode([400, 401, 402, 403], skipSpecialTokens: true));
    }

    [Fact]
    public void TheLongestToken_Wins()
    {
        using var folder = NewFolder(("added_tokens.json", """{"<a>": 400, "<a><b>": 401, "<b>": 402}"""));

        Assert.Equal([400, 401, 402], ErnieTokenizer.Load(folder.Path).EncodeToIds("<a><a><b><b>", allowSpecialTokens: true));
    }

    [Fact]
    public void Digits_StayText_WhereACheckpointListsThem()
    {
        using var folder = NewFolder(("tokenizer_config.json", """{"added_tokens_decoder": {"3": {"content": "0", "special": true}, "4": {"content": "1", "special": true}}}"""));
        var tokenizer = ErnieTokenizer.Load(folder.Path);

        Assert.Equal([4, 3], tokenizer.EncodeToIds("10"));
        Assert.Equal("10", tokenizer.Decode([4, 3], skipSpecialTokens: true));
    }

    [Fact]
    public void TagsOfTheOutputGrammar_AreNeverSpecial()
    {
        using var folder = NewFolder(
            ("added_tokens.json", """{"<think>": 400, "<|x|>": 401}"""),
            ("special_tokens_map.json", """{"additional_special_tokens": ["<think>", "<|x|>"]}"""));
        var tokenizer = ErnieTokenizer.Load(folder.Path);

        Assert.Equal((false, true), (tokenizer.IsSpecial(400), tokenizer.IsSpecial(401)));
    }

    [Fact]
    public void NamesThatTheVocabularyLacks_AreNoTokens()
    {
        using var folder = NewFolder(("tokenizer_config.json", """{"cls_token": "<cls>", "pad_token": null, "additional_special_tokens": null}"""));
        var tokenizer = ErnieTokenizer.Load(folder.Path);

        Assert.Null(tokenizer.ClsTokenId);
        Assert.Null(tokenizer.SepTokenId);
        Assert.Equal((1, 2), (tokenizer.BosTokenId, tokenizer.EosTokenId));
    }

    [Theory]
    [InlineData("added_tokens.json", "[1")]
    [InlineData("added_tokens.json", "[]")]
    [InlineData("added_tokens.json", """{"<a>": "x"}""")]
    [InlineData("added_tokens.json", """{"<a>": 4e9}""")]
    [InlineData("added_tokens.json", """{"<a>": -1}""")]
    [InlineData("added_tokens.json", """{"<a>": 2147483647}""")]
    [InlineData("added_tokens.json", """{"": 400}""")]
    [InlineData("added_tokens.json", """{"<a>": 400, "<b>": 400}""")]
    [InlineData("added_tokens.json", "{\"\\ud800\": 400}")]
    [InlineData("tokenizer_config.json", "{\"eos_token\": \"\\udc00\"}")]
    [InlineData("tokenizer_config.json", "")]
    [InlineData("tokenizer_config.json", """{"added_tokens_decoder": {"x": {"content": "<a>"}}}""")]
    [InlineData("tokenizer_config.json", """{"added_tokens_decoder": {"400": {"content": 5}}}""")]
    public void DamagedFiles_AreRefusedByName(string name, string content)
    {
        using var folder = NewFolder((name, content));

        Assert.StartsWith(folder.File(name), Assert.Throws<InvalidDataException>(() => ErnieTokenizer.Load(folder.Path)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Load_SaysWhatIsMissing()
    {
        using var folder = new TemporaryFolder();
        Assert.False(ErnieTokenizer.Exists(folder.Path));
        Assert.Contains("ernie_token_100k.model", Assert.Throws<FileNotFoundException>(() => ErnieTokenizer.Load(folder.Path)).Message, StringComparison.Ordinal);

        File.WriteAllText(folder.File("tokenizer.json"), "{}");
        Assert.Contains("no tokenizer.model", Assert.Throws<NotSupportedException>(() => ErnieTokenizer.Load(folder.Path)).Message, StringComparison.Ordinal);
        Assert.Throws<DirectoryNotFoundException>(() => ErnieTokenizer.Load(folder.File("nowhere")));

        File.WriteAllBytes(folder.File("spm.model"), SyntheticModel.WithErnieLayout().ToArray());
        Assert.True(ErnieTokenizer.Exists(folder.Path));
        Assert.Equal(269, ErnieTokenizer.Load(folder.Path).VocabularySize);
    }

    private static TemporaryFolder NewFolder(params (string Name, string Content)[] files)
    {
        var folder = new TemporaryFolder();
        File.WriteAllBytes(folder.File("tokenizer.model"), SyntheticModel.WithErnieLayout().ToArray());
        foreach (var (name, content) in files) File.WriteAllText(folder.File(name), content);
        return folder;
    }
}
