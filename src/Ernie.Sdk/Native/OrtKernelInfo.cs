using System.Text;

namespace Ernie.Sdk.Native;

/// <summary>What a node tells its kernel at creation: attributes, name, constant inputs.</summary>
internal readonly unsafe struct OrtKernelInfo(nint handle)
{
    public string NodeName
    {
        get
        {
            nuint size = 0;
            var get = (delegate* unmanaged<nint, byte*, nuint*, nint>)Ort.Api->KernelInfo_GetNodeName;
            Ort.Check(get(handle, null, &size));
            if (size == 0) return "";
            var bytes = new byte[size];
            fixed (byte* p = bytes) Ort.Check(get(handle, p, &size));
            return Encoding.UTF8.GetString(bytes, 0, (int)size - 1);
        }
    }

    public int Int(string name) => TryInt(name) ?? throw new InvalidDataException($"Node {NodeName} has no integer attribute '{name}'. Export the checkpoint again with this version of Ernie.Sdk.");

    /// <summary>Null where the node does not have the attribute.</summary>
    public int? TryInt(string name)
    {
        long value;
        nint status;
        fixed (byte* p = Ort.Utf8(name)) status = ((delegate* unmanaged<nint, byte*, long*, nint>)Ort.Api->KernelInfoGetAttribute_int64)(handle, p, &value);
        return Ort.Succeeded(status) ? checked((int)value) : null;
    }

    public float Float(string name)
    {
        float value;
        nint status;
        fixed (byte* p = Ort.Utf8(name)) status = ((delegate* unmanaged<nint, byte*, float*, nint>)Ort.Api->KernelInfoGetAttribute_float)(handle, p, &value);
        if (!Ort.Succeeded(status)) throw new InvalidDataException($"Node {NodeName} has no float attribute '{name}'. Export the checkpoint again with this version of Ernie.Sdk.");
        return value;
    }

    /// <summary>An initializer, valid as long as the session.</summary>
    public TensorView Constant(int index, string inputName)
    {
        int isConstant;
        nint value;
        Ort.Check(((delegate* unmanaged<nint, nuint, int*, nint*, nint>)Ort.Api->KernelInfoGetConstantInput_tensor)(handle, (nuint)index, &isConstant, &value));
        if (isConstant == 0 || value == 0) throw new InvalidDataException($"Input '{inputName}' of node {NodeName} must be an initializer.");
        return TensorView.Of(value);
    }
}
