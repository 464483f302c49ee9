using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Ernie.Sdk.Checkpoints;

/// <summary>Stored elements to float, exactly. Sources need no alignment: a safetensors header may have any length.</summary>
internal static unsafe class Widening
{
    public static void Widen(StoredType type, byte* source, Span<float> destination)
    {
        switch (type)
        {
            case StoredType.Float32:
                new ReadOnlySpan<byte>(source, checked(destination.Length * 4)).CopyTo(System.Runtime.InteropServices.MemoryMarshal.AsBytes(destination));
                break;
            case StoredType.Float16:
                TensorPrimitives.ConvertToSingle(new ReadOnlySpan<Half>(source, destination.Length), destination);
                break;
            case StoredType.BFloat16:
                WidenBFloat16((ushort*)source, destination);
                break;
            default:
                throw new ArgumentOutOfRangeException(nameof(type));
        }
    }

    private static void WidenBFloat16(ushort* source, Span<float> destination)
    {
        fixed (float* target = destination)
        {
            var i = 0;
            for (; i <= destination.Length - Vector256<ushort>.Count; i += Vector256<ushort>.Count)
            {
                // 16 bit patterns widen to 32-bit lanes; a bfloat16 is the upper half of a float.
                var (low, high) = Vector256.Widen(Vector256.Load(source + i));
                (low << 16).AsSingle().Store(target + i);
                (high << 16).AsSingle().Store(target + i + Vector256<uint>.Count);
            }
            for (; i < destination.Length; i++) target[i] = BitConverter.UInt32BitsToSingle((uint)Unsafe.ReadUnaligned<ushort>(source + i) << 16);
        }
    }
}
