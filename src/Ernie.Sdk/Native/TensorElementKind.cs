namespace Ernie.Sdk.Native;

/// <summary>ONNXTensorElementDataType, the members that we use. TensorProto.DataType has the same numbers for these.</summary>
internal enum TensorElementKind
{
    /// <summary>As the type of an operator's input: any tensor.</summary>
    Any = 0,
    Float = 1,
    UInt8 = 2,
    Int32 = 6,
    Int64 = 7,
    Float16 = 10,
    BFloat16 = 16,
}
