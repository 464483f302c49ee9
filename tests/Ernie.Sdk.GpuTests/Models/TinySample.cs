using System.Text.Json;

namespace Ernie.Sdk.GpuTests.Models;

/// <summary>A question to the shipped model, as its README measures it: a greedy answer, the whole of which must match.</summary>
/// <param name="Task">What is asked for.</param>
/// <param name="Template">A or B, of its README.</param>
/// <param name="Prompt">The rendered text.</param>
/// <param name="Expected">The visible answer.</param>
internal sealed record TinySample(string Task, string Template, string Prompt, string Expected)
{
    private const int MostTokens = 400;

    public static IReadOnlyList<TinySample> Read(string file) =>
    [
        .. File.ReadLines(file).Select(static line =>
        {
            using var sample = JsonDocument.Parse(line);
            string Text(string name) => sample.RootElement.GetProperty(name).GetString()!;
            return new TinySample(Text("task"), Text("template"), Text("prompt"), Text("expected"));
        }),
    ];

    public int[] Ids(ErnieModel model) => [.. model.Tokenizer!.EncodeToIds(Prompt, allowSpecialTokens: true)];

    /// <summary>The likeliest tokens, up to a stop token, with it.</summary>
    public async Task<List<int>> AnswerAsync(ErnieModel model, ErnieSparseAttention? attention = null, CancellationToken cancellationToken = default) =>
        await model.GenerateAsync(Ids(model), new ErnieGenerationOptions { Temperature = 0, MaxTokens = MostTokens, SparseAttention = attention }, cancellationToken).ToListAsync(cancellationToken).ConfigureAwait(false);

    /// <summary>What of an answer is visible.</summary>
    public string Visible(ErnieModel model, IReadOnlyList<int> answer)
    {
        if (answer.Count > 0 && model.StopTokenIds.Contains(answer[^1])) answer = [.. answer.SkipLast(1)];
        var text = model.Tokenizer!.Decode(answer, skipSpecialTokens: false);
        return Template == "A" ? text : Inside(text, "response") ?? Inside(text, "tool_call") ?? text;
    }

    private static string? Inside(string text, string tag)
    {
        var (open, close) = ($"<{tag}>\n", $"\n</{tag}>");
        var start = text.IndexOf(open, StringComparison.Ordinal);
        if (start < 0) return null;
        start += open.Length;
        var end = text.IndexOf(close, start, StringComparison.Ordinal);
        return end < 0 ? text[start..] : text[start..end];
    }
}
