namespace Ernie.Sdk;

/// <summary>What a model computes on.</summary>
public enum ErnieDevice
{
    /// <summary>The CPU.</summary>
    Cpu,

    /// <summary>
    /// An NVIDIA GPU of compute capability 8.0 or later, by ONNX Runtime's CUDA provider. Loading throws <see cref="ErnieDeviceException"/> where anything is missing; nothing is computed on the CPU in silence.
    /// What does not fit into its memory stays on the CPU, routed experts first and whole layers where that is not enough: see <see cref="ErnieModelOptions.GpuMemoryBytes"/>. This version was tested with an emulation of its kernels on a CPU and has never run on a GPU: compare its answers with those of <see cref="Cpu"/>. Sums are rounded in another order than on the CPU: the same seed may give other tokens.
    /// </summary>
    Cuda,

    /// <summary>The GPU where one is usable for the model, else the CPU. The log says which, and why not the other.</summary>
    Auto,
}
