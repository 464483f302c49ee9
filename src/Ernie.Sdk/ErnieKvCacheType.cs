namespace Ernie.Sdk;

/// <summary>Element type of cached keys and values.</summary>
public enum ErnieKvCacheType
{
    /// <summary>bfloat16: half the memory of <see cref="Float32"/>, good for chat.</summary>
    BFloat16,

    /// <summary>IEEE single, for comparing numbers with other engines.</summary>
    Float32,

    /// <summary>Eight bits with a scale for each position and head: half the memory of <see cref="BFloat16"/>, and half of what a decoded token reads.</summary>
    Int8,
}
