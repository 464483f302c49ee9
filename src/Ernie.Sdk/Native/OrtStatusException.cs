namespace Ernie.Sdk.Native;

/// <summary>A status that ONNX Runtime returned from a call of its C API.</summary>
internal sealed class OrtStatusException(int code, string message) : Exception(message)
{
    public int Code { get; } = code;
}
