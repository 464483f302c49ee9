using Ernie.Sdk.Kernels;

namespace Ernie.Sdk;

/// <summary>Options of PLAS block-sparse attention: how many blocks of 128 cached tokens a query reads.</summary>
/// <remarks>
/// Each query scores every block by its summary and chooses between "left" and "right" of them (a threshold is bisected at most six times, so a count may lie outside). All 128 queries
/// of a block of the prompt read the union of their choices, a decoded token reads the union over the heads that share keys; the first block and the newest ones are always read.
/// Contexts shorter than the sequence limits are read whole: there the result is dense attention's. Names and defaults are FastDeploy's (<c>plas_encoder_top_k_left</c> = 50, …).
/// </remarks>
public sealed record ErnieSparseAttention
{
    private const int MaxBlocks = 1 << 20;

    /// <summary>Gets options that read every block.</summary>
    public static ErnieSparseAttention Dense { get; } = new() { Enabled = false };

    /// <summary>Gets whether blocks are chosen at all.</summary>
    /// <value>The default is <see langword="true"/>.</value>
    public bool Enabled { get; init; } = true;

    /// <summary>Gets the fewest blocks that a query of a prompt chooses.</summary>
    /// <value>The default is 50.</value>
    public int EncoderTopKLeft { get; init; } = 50;

    /// <summary>Gets the most blocks that a query of a prompt chooses.</summary>
    /// <value>The default is 60.</value>
    public int EncoderTopKRight { get; init; } = 60;

    /// <summary>Gets the fewest blocks that a decoded token's query chooses.</summary>
    /// <value>The default is 100.</value>
    public int DecoderTopKLeft { get; init; } = 100;

    /// <summary>Gets the most blocks that a decoded token's query chooses.</summary>
    /// <value>The default is 120.</value>
    public int DecoderTopKRight { get; init; } = 120;

    /// <summary>Gets the length in tokens below which a prompt is read whole.</summary>
    /// <value>The default, <see langword="null"/>, is 128 · <see cref="EncoderTopKLeft"/>, which is also the least.</value>
    public int? EncoderSequenceLimit { get; init; }

    /// <summary>Gets the number of cached tokens below which a decoded token reads all of them.</summary>
    /// <value>The default, <see langword="null"/>, is 128 · <see cref="DecoderTopKLeft"/>, which is also the least.</value>
    public int? DecoderSequenceLimit { get; init; }

    /// <exception cref="ArgumentOutOfRangeException">A count is not positive, a "left" exceeds its "right", or a limit is too low.</exception>
    internal SparseLimits Limits()
    {
        if (!Enabled) return SparseLimits.Dense;
        Check(EncoderTopKLeft, EncoderTopKRight, EncoderSequenceLimit, nameof(EncoderTopKLeft), nameof(EncoderTopKRight), nameof(EncoderSequenceLimit));
        Check(DecoderTopKLeft, DecoderTopKRight, DecoderSequenceLimit, nameof(DecoderTopKLeft), nameof(DecoderTopKRight), nameof(DecoderSequenceLimit));
        return new SparseLimits(
            EncoderTopKLeft, EncoderTopKRight, EncoderSequenceLimit ?? EncoderTopKLeft * KvBlockLayout.BlockSize,
            DecoderTopKLeft, DecoderTopKRight, DecoderSequenceLimit ?? DecoderTopKLeft * KvBlockLayout.BlockSize);
    }

    private static void Check(int left, int right, int? limit, string leftName, string rightName, string limitName)
    {
        if (left is < 1 or > MaxBlocks) throw new ArgumentOutOfRangeException(leftName, left, $"{leftName} must lie between 1 and {MaxBlocks}.");
        if (right < left || right > MaxBlocks) throw new ArgumentOutOfRangeException(rightName, right, $"{rightName} must lie between {leftName} ({left}) and {MaxBlocks}.");
        if (limit < left * KvBlockLayout.BlockSize)
            throw new ArgumentOutOfRangeException(limitName, limit, $"{limitName} must be at least 128 · {leftName}, {left * KvBlockLayout.BlockSize}.");
    }
}
