namespace Ernie.Sdk.Native;

/// <summary>CUresult, the members that something here depends on. Others keep their number and the name that the driver gives them.</summary>
internal enum CudaResult
{
    Success = 0,
    InvalidValue = 1,
    OutOfMemory = 2,
    NotInitialized = 3,
    NoDevice = 100,
    InvalidPtx = 218,
    UnsupportedPtxVersion = 222,
    NotFound = 500,
    NotReady = 600,
    SystemDriverMismatch = 803,
}

/// <summary>A call of the driver failed.</summary>
internal sealed class CudaException(CudaResult result, string call, string name, string text)
    : Exception($"{call} failed: {name} ({(int)result}){(text.Length > 0 ? $", {text}" : "")}")
{
    public CudaResult Result { get; } = result;
    public string Call { get; } = call;
    /// <summary>As in <c>CUDA_ERROR_OUT_OF_MEMORY</c>.</summary>
    public string ErrorName { get; } = name;
    /// <summary>What the driver, or its compiler, says of it.</summary>
    public string Text { get; } = text;
    public bool IsOutOfMemory => Result == CudaResult.OutOfMemory;
}
