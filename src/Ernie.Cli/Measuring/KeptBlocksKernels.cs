using Ernie.Sdk.Kernels;

namespace Ernie.Cli.Measuring;

/// <summary>Kernels that count which share of the blocks attention reads. The engine's thread calls them.</summary>
internal sealed class KeptBlocksKernels(CpuKernels inner) : CpuKernels
{
    private readonly BlockSelections _selections = new();
    private long _kept, _all;

    public override string Name => inner.Name;
    public override bool IsSupported => inner.IsSupported;

    /// <summary>Blocks read, of those that lie before a token or around it; over all layers, heads and packs.</summary>
    public double Share => _all == 0 ? 1 : (double)_kept / _all;

    public override void AddRmsNorm(in AddRmsNormArguments arguments, in KernelContext context) => inner.AddRmsNorm(arguments, context);
    public override void Linear(in LinearArguments arguments, in KernelContext context) => inner.Linear(arguments, context);
    public override void Experts(in ExpertsArguments arguments, in KernelContext context) => inner.Experts(arguments, context);

    public override unsafe void Attention(in AttentionArguments arguments, in KernelContext context)
    {
        var a = arguments;
        a.Selections = _selections;
        _selections.Clear();
        inner.Attention(a, context);
        // Heads times packs read everything but where a selection says what they read instead.
        for (var s = 0; s < a.SequenceCount; s++)
        {
            for (int t = a.SequenceStarts[s], count; t < a.SequenceStarts[s + 1]; t += count)
            {
                count = Math.Min(a.SequenceStarts[s + 1] - t, KvBlockLayout.BlockSize - a.Positions[t] % KvBlockLayout.BlockSize);
                var blocks = (long)a.HeadCount * (a.Positions[t] / KvBlockLayout.BlockSize + 1);
                _all += blocks;
                _kept += blocks;
            }
        }
        var group = a.HeadCount / a.KvHeadCount;
        foreach (var selection in _selections.Items)
        {
            var heads = selection.IsDecode ? group : 1;
            _kept -= (long)heads * (a.Positions[selection.FirstToken] / KvBlockLayout.BlockSize + 1 - selection.Blocks.Length);
        }
    }
}
