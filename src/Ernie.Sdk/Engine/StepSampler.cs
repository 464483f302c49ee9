using System.Collections.Concurrent;

namespace Ernie.Sdk.Engine;

/// <summary>Chooses the next tokens of all sequences of a step from its logits. Used by the engine's thread.</summary>
internal abstract class StepSampler
{
    /// <param name="sequences">The step's.</param>
    /// <param name="rows">For each sequence, in the order of the step, the row of logits that its next token is drawn from, or -1 where it gets none.</param>
    /// <param name="choices">As many; those of sequences without a row are left alone.</param>
    public abstract void Choose(IReadOnlyList<Sequence> sequences, int[] rows, TokenChoice[] choices);

    /// <summary>The mask of tokens that a sequence may have next; empty where all may.</summary>
    protected static ReadOnlySpan<ulong> Allowed(Sequence sequence) =>
        sequence.Constraint is { } constraint ? constraint.Allowed(sequence.MaxTokens - sequence.GeneratedCount) : default;
}

/// <summary>
/// On the CPU. A vocabulary of 100,000 takes tens of microseconds for each sequence, so several threads share the sequences: what one gets does not depend on the others.
/// </summary>
internal sealed unsafe class CpuSampler(StepDevice device, int vocabSize, IReadOnlyList<Range> undefinedRows, int threadCount) : StepSampler
{
    private readonly ConcurrentBag<Sampler> _samplers = [];
    private readonly ParallelOptions _options = new() { MaxDegreeOfParallelism = threadCount };

    public override void Choose(IReadOnlyList<Sequence> sequences, int[] rows, TokenChoice[] choices)
    {
        fixed (float* first = device.ReadLogits(0, rows.Max() + 1, vocabSize)) // [rows, vocabulary]
        {
            var pointer = first;
            // The pool's threads help where they are free; this one does all of it where none is.
            Parallel.For(0, sequences.Count, _options, Rent, (i, _, sampler) =>
            {
                if (rows[i] >= 0) choices[i] = Choose(new ReadOnlySpan<float>(pointer + ((nint)rows[i] * vocabSize), vocabSize), sequences[i], sampler);
                return sampler;
            }, _samplers.Add);
        }
    }

    private Sampler Rent() => _samplers.TryTake(out var sampler) ? sampler : new Sampler(vocabSize, undefinedRows);

    private static TokenChoice Choose(ReadOnlySpan<float> logits, Sequence sequence, Sampler sampler)
    {
#pragma warning disable CA1031 // A constraint that fails ends its own request; the others of the step go on.
        try
        {
            var token = sampler.Sample(logits, sequence.Sampling, sequence.History, sequence.GeneratedCount, Allowed(sequence));
            sequence.Constraint?.Advance(token);
            return new TokenChoice(token, sequence.TopProbabilities is { } top ? TokenProbabilities.Of(logits, token, top) : null, null);
        }
        catch (Exception e)
        {
            return new TokenChoice(0, null, e);
        }
#pragma warning restore CA1031
    }
}

/// <summary>A sequence's next token, or why it has none.</summary>
internal readonly record struct TokenChoice(int Token, TokenProbabilities? Probabilities, Exception? Failure);
