using Ernie.Sdk.Engine;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Support;

/// <summary>
/// A stand-in for the model: what it "computes" for a position is a number that depends on all the numbers before it, as read through the block table, and on how attention would have looked at them.
/// The next token is drawn from that number, so an answer shows whether every block held what a request alone would have put there.
/// </summary>
internal sealed unsafe class SimulatedSteps(KvCache cache)
{
    private const int BlockSize = KvBlockLayout.BlockSize;

    /// <summary>Computes the planned step and does with its sequences what the engine does.</summary>
    public void Compute(Scheduler scheduler)
    {
        foreach (var (sequence, count, isDecode) in scheduler.Step.ToArray())
        {
            var context = sequence.Context;
            for (var p = context.Computed; p < context.Computed + count; p++) Write(sequence, p, context.Computed, context.Computed + count, isDecode);
            scheduler.Advance(sequence, count);
            if (sequence.OnLogits is not null)
            {
                if (!sequence.IsPrefill) scheduler.Finish(sequence);
                continue;
            }
            if (context.Computed < context.Tokens.Count) continue;
            context.Add((int)(Read(context, context.Computed - 1) % 1000), sequence.Limits);
            if (sequence.GeneratedCount >= sequence.MaxTokens) scheduler.Finish(sequence);
        }
    }

    private void Write(Sequence sequence, int position, int begin, int end, bool isDecode)
    {
        var context = sequence.Context;
        var limits = context.Next().Limits;
        var hash = Mix((ulong)context.Tokens[position], (ulong)position);
        for (var b = 0; b < position / BlockSize; b++) hash = Mix(hash, Read(context, b * BlockSize + BlockSize - 1));
        if (position % BlockSize > 0) hash = Mix(hash, Read(context, position - 1));
        if (isDecode && !limits.DecodeIsDense(position))
        {
            hash = Mix(hash, (ulong)(limits.DecoderTopKLeft * 1000 + limits.DecoderTopKRight));
        }
        else if (!isDecode && !limits.PrefillIsDense(position / BlockSize))
        {
            // The tokens of a pack choose together.
            var pack = position / BlockSize * BlockSize;
            hash = Mix(hash, (ulong)(limits.EncoderTopKLeft * 1000 + limits.EncoderTopKRight));
            for (var p = Math.Max(begin, pack); p < Math.Min(end, pack + BlockSize); p++) hash = Mix(hash, (ulong)context.Tokens[p] + 1);
        }
        *Slot(context, position) = hash;
    }

    private ulong Read(TokenContext context, int position) => *Slot(context, position);

    /// <summary>In the cache's own memory: what it copies and forgets is copied and forgotten.</summary>
    private ulong* Slot(TokenContext context, int position) => (ulong*)(cache.Layer(0) + context.BlockTable[position / BlockSize] * cache.Layout.BlockBytes) + position % BlockSize;

    private static ulong Mix(ulong a, ulong b)
    {
        unchecked
        {
            var x = (a ^ (b + 0x9E3779B97F4A7C15 + (a << 6) + (a >> 2))) * 0xBF58476D1CE4E5B9;
            return x ^ (x >> 31);
        }
    }
}
