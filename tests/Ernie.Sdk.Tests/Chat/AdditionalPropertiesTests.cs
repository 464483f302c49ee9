using System.Text.Json;
using Ernie.Sdk.Engine;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>Logit bias, bad words and log-probabilities, which are asked for by additional properties.</summary>
public sealed class AdditionalPropertiesTests : IAsyncLifetime
{
    private const string Question = "Who are you?";
    private ErnieModel _model = null!;
    private IChatClient _client = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync()
    {
        _model = await TinyModel.LoadAsync();
        _client = _model.AsChatClient();
    }

    public ValueTask DisposeAsync() => _model.DisposeAsync();

    [Fact]
    public async Task Bias_ForcesAndForbidsTokens()
    {
        var plain = await AskAsync();
        var first = _model.Tokenizer!.EncodeToIds(plain.Text)[0];
        var other = _model.Tokenizer.EncodeToIds("7")[0];
        Assert.Equal(plain.Text, (await AskAsync(("logit_bias", new Dictionary<int, float> { [first] = 0 }))).Text);
        Assert.NotEqual(first, _model.Tokenizer.EncodeToIds((await AskAsync(("logit_bias", new Dictionary<string, object> { [$"{first}"] = -100 }))).Text)[0]);
        Assert.Equal(new string('7', 24), (await AskAsync(("logit_bias", JsonDocument.Parse($$"""{"{{other}}": 100}""").RootElement))).Text);
    }

    [Fact]
    public async Task BadWords_NeverCome_HoweverTheyAreCut()
    {
        var text = (await AskAsync()).Text;
        for (var start = 0; start + 3 < text.Length; start += 2)
        {
            var word = text.Substring(start, 3);
            for (var seed = 0; seed < 4; seed++)
            {
                var response = await _client.GetResponseAsync(Question, new() { Temperature = seed, Seed = seed, MaxOutputTokens = 24, AdditionalProperties = new() { ["bad_words"] = new[] { word, "e" } } }, Token);
                Assert.DoesNotContain(word, response.Text, StringComparison.Ordinal);
                Assert.DoesNotContain("e", response.Text, StringComparison.Ordinal);
            }
        }
        var first = _model.Tokenizer!.EncodeToIds(text)[0];
        Assert.NotEqual(first, _model.Tokenizer.EncodeToIds((await AskAsync(("bad_words", new List<int> { first }))).Text)[0]);
    }

    [Fact]
    public async Task LogProbabilities_AreTheModels_OnUpdatesAndResponses()
    {
        var plain = await AskAsync();
        var response = await AskAsync(("logprobs", true), ("top_logprobs", 3));
        Assert.Equal(plain.Text, response.Text);
        Assert.Null(plain.AdditionalProperties);
        var tokens = Assert.IsType<ErnieTokenLogProbability[]>(response.AdditionalProperties!["logprobs"]);
        Assert.Equal(response.Usage!.OutputTokenCount, tokens.Length);

        var prompt = ((Ernie.Sdk.Chat.ErnieChatClient)_client).Encode(((Ernie.Sdk.Chat.ErnieChatClient)_client).Request([new(ChatRole.User, Question)], null));
        List<int> all = [.. prompt, .. tokens.Select(static t => t.TokenId)];
        var expected = new List<double>();
        await _model.ScoreAsync(all, (position, logits) =>
        {
            for (var row = 0; row * _model.VocabularySize < logits.Length; row++)
            {
                var own = logits.Slice(row * _model.VocabularySize, _model.VocabularySize).ToArray();
                if (position + row + 1 < all.Count) expected.Add(own[all[position + row + 1]] - Math.Log(own.Sum(static x => Math.Exp(x))));
            }
        }, Token);
        for (var i = 0; i < tokens.Length; i++)
        {
            Assert.Equal(expected[prompt.Count - 1 + i], tokens[i].LogProbability, 1e-3);
            // Greedy: the chosen token is the likeliest.
            Assert.Equal((tokens[i].TokenId, tokens[i].LogProbability), (tokens[i].Top[0].TokenId, tokens[i].Top[0].LogProbability));
            Assert.Equal(3, tokens[i].Top.Count);
            Assert.True(tokens[i].Top[0].LogProbability >= tokens[i].Top[1].LogProbability && tokens[i].Top[1].LogProbability >= tokens[i].Top[2].LogProbability);
        }
        var updates = await _client.GetStreamingResponseAsync(Question, Options(("logprobs", true)), Token).ToListAsync(Token);
        Assert.Equal(tokens.Select(static t => t.TokenId), updates.SelectMany(static u => (ErnieTokenLogProbability[])(u.AdditionalProperties?["logprobs"] ?? Array.Empty<ErnieTokenLogProbability>())).Select(static t => t.TokenId));
    }

    [Fact]
    public void TopProbabilities_AreThoseOfASort()
    {
        var random = new Random(1);
        for (var i = 0; i < 200; i++)
        {
            float[] logits = [.. Enumerable.Range(0, random.Next(3, 60)).Select(_ => (float)random.Next(-5, 5))];
            var token = random.Next(logits.Length);
            var found = TokenProbabilities.Of(logits, token, 3);
            Assert.Equal(Enumerable.Range(0, logits.Length).OrderByDescending(id => logits[id]).Take(3), found.Top.Select(static top => top.Id));
            Assert.Equal(logits[token] - Math.Log(logits.Sum(static x => Math.Exp(x))), found.Chosen, 1e-4);
        }
    }

    [Fact]
    public async Task WhatCannotBeRead_IsRefusedByName()
    {
        foreach (var (name, value) in new (string, object)[] { ("logit_bias", 3), ("logit_bias", new Dictionary<string, object> { ["x"] = 1 }), ("logit_bias", new Dictionary<int, float> { [99_999] = 1 }), ("bad_words", "x"), ("bad_words", new[] { "" }), ("bad_words", new[] { 99_999 }), ("logprobs", 1), ("top_logprobs", 3), ("stream_options", true), ("stream_options", new Dictionary<string, object> { ["include_usage"] = false }), ("stream_options", new Dictionary<string, object> { ["include_obfuscation"] = true }) })
        {
            var e = await Assert.ThrowsAnyAsync<ArgumentException>(() => AskAsync((name, value)));
            Assert.Contains(name.Replace("_", "", StringComparison.Ordinal), e.Message.Replace("_", "", StringComparison.Ordinal), StringComparison.OrdinalIgnoreCase);
        }
        await Assert.ThrowsAnyAsync<ArgumentException>(() => AskAsync(("logprobs", true), ("top_logprobs", 21)));
        await Assert.ThrowsAsync<NotSupportedException>(() => _client.GetResponseAsync("x", new() { ResponseFormat = ChatResponseFormat.Json, AdditionalProperties = new() { ["bad_words"] = new[] { "x" } } }, Token));
    }

    private Task<ChatResponse> AskAsync(params (string Name, object Value)[] properties) => _client.GetResponseAsync(Question, Options(properties), Token);

    private static ChatOptions Options(params (string Name, object Value)[] properties)
    {
        var options = new ChatOptions { Temperature = 0, MaxOutputTokens = 24, AdditionalProperties = [] };
        foreach (var (name, value) in properties) options.AdditionalProperties[name] = value;
        return options;
    }
}
