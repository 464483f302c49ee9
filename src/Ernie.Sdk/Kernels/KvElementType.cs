namespace Ernie.Sdk.Kernels;

/// <summary>Element type of cached keys and values.</summary>
internal enum KvElementType
{
    Float32,
    BFloat16,
    /// <summary>Eight bits; each position of a KV head has one float scale for its key and one for its value.</summary>
    Int8,
}
