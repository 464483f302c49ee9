using System.Runtime.InteropServices;

namespace Ernie.Sdk.Kernels;

/// <summary>How many blocks of the cache a query of one sequence reads: a row of the graph's input <c>sparse_limits</c>, six int32.</summary>
/// <remarks>Names and meaning are those of FastDeploy's PLAS options. The default value is dense attention.</remarks>
/// <param name="EncoderTopKLeft">Prefill: fewest blocks that a query chooses. 0: prefill is dense.</param>
/// <param name="EncoderTopKRight">Prefill: most blocks that a query chooses.</param>
/// <param name="EncoderLimit">Prefill is dense in packs that end before this position.</param>
/// <param name="DecoderTopKLeft">Decode: fewest blocks that a query chooses. 0: decode is dense.</param>
/// <param name="DecoderTopKRight">Decode: most blocks that a query chooses.</param>
/// <param name="DecoderLimit">Decode is dense while the cache holds fewer tokens.</param>
[StructLayout(LayoutKind.Sequential)]
internal readonly record struct SparseLimits(int EncoderTopKLeft, int EncoderTopKRight, int EncoderLimit, int DecoderTopKLeft, int DecoderTopKRight, int DecoderLimit)
{
    /// <summary>Integers of a row.</summary>
    public const int Count = 6;

    public static SparseLimits Dense => default;

    /// <summary>Whether the tokens of a prompt that lie in this block of the context read all blocks up to it.</summary>
    public bool PrefillIsDense(int block) => EncoderTopKLeft == 0 || KvBlockLayout.BlockSize * ((long)block + 1) < EncoderLimit;

    /// <summary>Whether a token that is decoded after <paramref name="cached"/> others, at that position, reads all of them.</summary>
    public bool DecodeIsDense(int cached) => DecoderTopKLeft == 0 || cached < DecoderLimit;
}
