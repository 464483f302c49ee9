namespace Ernie.Sdk.Checkpoints;

/// <summary>Element type as stored in the file.</summary>
internal enum StoredType { Float32, Float16, BFloat16 }

internal static class StoredTypes
{
    public static int Bytes(this StoredType type) => type == StoredType.Float32 ? 4 : 2;

    /// <summary>Null for element types that hold no plain weights. Paddle has no bfloat16 in numpy and declares it as uint16.</summary>
    public static StoredType? FromSafetensors(string elementType) => elementType switch
    {
        "F32" => StoredType.Float32,
        "F16" => StoredType.Float16,
        "BF16" or "U16" => StoredType.BFloat16,
        _ => null,
    };
}
