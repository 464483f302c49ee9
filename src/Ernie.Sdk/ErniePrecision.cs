namespace Ernie.Sdk;

/// <summary>How an exported model stores its weights.</summary>
public enum ErniePrecision
{
    /// <summary>bfloat16, 16 bits a weight: what the released checkpoints hold, kept exactly.</summary>
    BFloat16,

    /// <summary>IEEE single, 32 bits a weight.</summary>
    Float32,
}
