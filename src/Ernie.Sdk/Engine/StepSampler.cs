using System.Collections.Concurrent;

namespace Ernie.Sdk.Engine;

/// <summary>
/// Chooses the next tokens of all sequences of a step. A vocabulary of 100,000 takes tens of microseconds for each of them, so several threads share the sequences: what one gets does not depend on the others.
/// </summary>
internal sealed unsafe class StepSampler(int vocabSize, IReadOnlyList<Range> undefinedRows, int threadCount)
{
    private readonly ConcurrentBag<Sampler> _samplers = [];
    private readonly ParallelOptions _options = new() { MaxDegreeOfParallelism = threadCount };

    /// <param name="logits">[rows, vocabulary].</param>
    /// <param name="rows">For each sequence, in the order of the step, the row that its next token is drawn from, or -1 where it gets none.</param>
    /// <param name="sequences">The step's.</param>
    /// <param name="choices">As many; those of sequences without a row are left alone.</param>
    public void Choose(ReadOnlySpan<float> logits, IReadOnlyList<Sequence> sequences, int[] rows, TokenChoice[] choices)
    {
        fixed (float* first = logits)
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
            var constraint = sequence.Constraint;
            var token = sampler.Sample(logits, sequence.Sampling, sequence.History, sequence.GeneratedCount, constraint is null ? default : constraint.Allowed(sequence.MaxTokens - sequence.GeneratedCount));
            constraint?.Advance(token);
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
