namespace Ernie.Sdk.GpuTests.Cases;

/// <summary>What kernels are compared on. Emulated ones take the lists of their own: a thread of a GPU costs a CPU a thousand times as much.</summary>
internal static class KernelShapes
{
    /// <summary>(tokens, rows, columns) of every CPU family.</summary>
    public static readonly (int Tokens, int Rows, int Columns)[] Linear =
    [
        (1, 1, 1), (1, 5, 15), (2, 3, 16), (3, 7, 17), (4, 64, 64), (5, 66, 47), (7, 129, 100), (16, 130, 33), (17, 258, 256), (33, 31, 70), (1, 300, 4096), (6, 18, 2560), (3, 35, 128), (20, 50, 384),
    ];

    /// <summary>Where each tiling of the CUDA kernels ends.</summary>
    public static readonly (int Tokens, int Rows, int Columns)[] CudaLinear =
    [
        (1, 1, 1), (2, 5, 15), (3, 7, 17), (5, 66, 47), (8, 18, 100), (9, 33, 256), (33, 20, 70), (1, 17, 2560), (4, 35, 128), (40, 18, 384), (70, 150, 256),
    ];

    /// <summary>(tokens, hidden, intermediate, experts, experts of a token) of every CPU family.</summary>
    public static readonly (int Tokens, int Hidden, int Intermediate, int Experts, int PerToken)[] Experts =
    [
        (1, 64, 32, 8, 2), (3, 18, 7, 5, 5), (1, 130, 66, 64, 6), (40, 33, 20, 16, 3), (100, 64, 48, 7, 1), (17, 100, 130, 64, 6), (2, 1, 1, 1, 1), (19, 256, 128, 8, 2), (1, 128, 384, 8, 4),
    ];

    /// <summary>With more experts than any CPU family has been asked for.</summary>
    public static readonly (int Tokens, int Hidden, int Intermediate, int Experts, int PerToken)[] CudaExperts =
    [
        (1, 64, 32, 8, 2), (3, 18, 7, 5, 5), (1, 130, 66, 64, 6), (40, 33, 20, 16, 3), (100, 64, 48, 7, 1), (17, 100, 34, 200, 8), (2, 1, 1, 1, 1), (19, 256, 128, 8, 2), (1, 128, 384, 8, 4),
    ];

    /// <summary>(heads, KV heads, channels of a head) of every CPU family.</summary>
    public static readonly (int Heads, int KvHeads, int HeadDim)[] Attention =
    [
        (1, 1, 2), (4, 4, 6), (8, 2, 16), (5, 1, 18), (8, 1, 20), (10, 2, 32), (8, 1, 64), (20, 4, 128), (3, 1, 40), (40, 1, 16),
    ];

    /// <summary>The CUDA kernels know heads of 16, 32, .. 128 channels.</summary>
    public static readonly (int Heads, int KvHeads, int HeadDim)[] CudaAttention = [(1, 1, 16), (10, 2, 32), (8, 1, 64), (5, 1, 128), (20, 1, 48)];

    /// <summary>(heads, KV heads, channels of a head, whether a learned gate makes the summaries) of sparse attention on CUDA.</summary>
    public static readonly (int Heads, int KvHeads, int HeadDim, bool IsGated)[] CudaSparse = [(5, 1, 32, false), (8, 1, 16, true), (2, 2, 16, false)];
}
