namespace Ernie.Sdk;

/// <summary>How an exported model stores its weights.</summary>
public enum ErniePrecision
{
    /// <summary>bfloat16, 16 bits a weight: what the released checkpoints hold, kept exactly.</summary>
    BFloat16,

    /// <summary>IEEE single, 32 bits a weight.</summary>
    Float32,

    /// <summary>Signed 8-bit integers; <see cref="ErnieExportOptions.GroupSize"/> of them share a scale.</summary>
    Int8,

    /// <summary>Signed 4-bit integers; <see cref="ErnieExportOptions.GroupSize"/> of them share a scale.</summary>
    Int4,

    /// <summary>WINT2, the 2-bit code of the published 2Bits checkpoints, 2.06 bits a weight with its scales. For routed experts only.</summary>
    Int2,
}
