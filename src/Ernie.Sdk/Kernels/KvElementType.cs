namespace Ernie.Sdk.Kernels;

/// <summary>Element type of cached keys and values.</summary>
internal enum KvElementType { Float32, BFloat16 }
