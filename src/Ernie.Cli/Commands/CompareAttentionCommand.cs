using System.CommandLine;
using System.Globalization;
using System.Threading.Channels;
using Ernie.Cli.Measuring;
using Ernie.Sdk;
using Ernie.Sdk.Export;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie compare-attention</c>: what reading fewer blocks costs a model.</summary>
internal static class CompareAttentionCommand
{
    public static Command Create(CommandStreams streams)
    {
        var input = CommonOptions.Input("JSON lines {\"ids\": […]}: long texts.");
        var limits = new Option<string>("--attentions") { Description = "What to compare with dense attention, with commas between.", DefaultValueFactory = static _ => "8/10,16/20,32/40,50/60", HelpName = AttentionOption.Help + ",…" };
        limits.Validators.Add(static result =>
        {
            foreach (var value in result.Tokens.SelectMany(static token => token.Value.Split(',')).Where(static value => AttentionOption.Parse(value) is null)) result.AddError(AttentionOption.Problem("--attentions", value));
        });
        var kv = new Option<string>("--kvs") { Description = "Element types of the cache to compare with fp32, with commas between.", DefaultValueFactory = static _ => "fp32", HelpName = "fp32|bf16|int8,…" };
        kv.Validators.Add(static result =>
        {
            foreach (var value in result.Tokens.SelectMany(static token => token.Value.Split(',')).Where(static value => value is not ("fp32" or "bf16" or "int8"))) result.AddError($"--kvs takes fp32, bf16 and int8; it was '{value}'.");
        });
        var from = new Option<int>("--from") { Description = "First position that counts: attention is dense at the beginning of a text.", DefaultValueFactory = static _ => 0, HelpName = "N" }.InRange(0, 1 << 20);
        var command = new DocumentedCommand("compare-attention", "Compares sparse attention with dense attention.",
            "Kept is the share of blocks that prompts read, over all layers and heads. Perplexity is that of the tokens; KL divergence, in nats a token, and the share of equal top tokens are against dense attention with an fp32 cache.",
            "ernie tokenize model report.txt --plain | ernie compare-attention model --attentions 1/2,4/6", "ernie compare-attention model documents.jsonl --attentions dense,12/16 --kvs bf16,int8 --from 2048");
        var model = ModelOptions.AddTo(command, input);
        foreach (var option in new Option[] { limits, kv, from }) command.Add(option);
        command.SetAction(async (result, cancellationToken) =>
        {
            using var lines = JsonLineReader.Open(result.GetValue(input), streams);
            var texts = new List<IReadOnlyList<int>>();
            await foreach (var line in lines.ReadAllAsync(cancellationToken).ConfigureAwait(false)) texts.Add(line.Ids());
            await streams.Out.WriteLineAsync($"{"attention",-16} {"kv",-5} {"kept",7} {"perplexity",11} {"KL",9} {"same top",9}").ConfigureAwait(false);
            using var dense = await model.LoadAsync(result, streams, 1, cancellationToken, attention: ErnieSparseAttention.Dense).ConfigureAwait(false);
            var isFirst = true;
            foreach (var attention in result.GetValue(limits)!.Split(','))
            {
                foreach (var type in result.GetValue(kv)!.Split(','))
                {
                    KeptBlocksKernels? kept = null;
                    using var other = await model.LoadAsync(result, streams, 1, cancellationToken, wrap: kernels => kept = new KeptBlocksKernels(kernels), attention: AttentionOption.Parse(attention), kv: type).ConfigureAwait(false);
                    var sum = new DivergenceSum();
                    using (var progress = new ProgressLine(streams, "compare"))
                    {
                        for (var i = 0; i < texts.Count; i++)
                        {
                            await AddAsync(dense, other, texts[i], result.GetValue(from), sum, cancellationToken).ConfigureAwait(false);
                            progress.Show((i + 1.0) / texts.Count, () => $"{attention}, {type}: text {i + 1} of {texts.Count}");
                        }
                    }
                    if (isFirst) await streams.Out.WriteLineAsync(string.Create(CultureInfo.InvariantCulture, $"{"dense",-16} {"fp32",-5} {1,7:P1} {sum.SourcePerplexity,11:F4} {0,9:F5} {1,9:P2}   {sum.Tokens} tokens")).ConfigureAwait(false);
                    isFirst = false;
                    await streams.Out.WriteLineAsync(string.Create(CultureInfo.InvariantCulture, $"{attention,-16} {type,-5} {kept!.Share,7:P1} {sum.Perplexity,11:F4} {sum.Mean,9:F5} {sum.Agreement,9:P2}")).ConfigureAwait(false);
                    await streams.Out.FlushAsync(cancellationToken).ConfigureAwait(false);
                    if (kept.Share >= 1 && attention != "dense") await streams.Error.WriteLineAsync($"ernie: {attention} chooses nothing in texts as short as these: every block was read. Longer texts, or fewer blocks such as 1/2, show a difference.").ConfigureAwait(false);
                }
            }
            return ExitCode.Success;
        });
        return command;
    }

    /// <summary>Both models compute the text at once, the one a few blocks ahead of the other: the logits of a whole document would not fit into memory.</summary>
    private static async Task AddAsync(ErnieModel dense, ErnieModel other, IReadOnlyList<int> ids, int from, DivergenceSum sum, CancellationToken cancellationToken)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        var chunks = Channel.CreateBounded<float[]>(2);
        var vocabulary = dense.VocabularySize;
        var source = ScoreAsync();
        try
        {
            await other.ScoreAsync(ids, (position, logits) =>
            {
                // The engine's thread of this model waits for the other's.
                var reference = chunks.Reader.ReadAsync(stop.Token).AsTask().GetAwaiter().GetResult();
                for (var t = 0; t * vocabulary < logits.Length && position + t + 1 < ids.Count; t++)
                {
                    if (position + t >= from) sum.Add(reference.AsSpan(t * vocabulary, vocabulary), logits.Slice(t * vocabulary, vocabulary), ids[position + t + 1]);
                }
            }, cancellationToken).ConfigureAwait(false);
        }
        finally
        {
            await stop.CancelAsync().ConfigureAwait(false);
            await source.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }

        async Task ScoreAsync()
        {
            try
            {
                await dense.ScoreAsync(ids, (_, logits) => chunks.Writer.WriteAsync(logits.ToArray(), stop.Token).AsTask().GetAwaiter().GetResult(), stop.Token).ConfigureAwait(false);
            }
            catch (Exception e)
            {
                chunks.Writer.TryComplete(e);
                throw;
            }
        }
    }
}
