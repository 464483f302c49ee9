using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Support;

/// <summary>The operators with emulated kernels. Host memory plays the device's.</summary>
internal sealed unsafe class EmulatedCudaKernels : LaunchedKernels
{
    public override bool IsSupported => CudaEmulation.Compiler is not null;

    protected override Call Begin() => new EmulatedCall();

    private sealed class EmulatedCall : Call, ICudaLauncher
    {
        private readonly List<NativeArray<byte>> _scratch = [];

        public override ICudaLauncher Launcher => this;

        public override T* In<T>(T* host, nint count) => host;

        public override T* Out<T>(T* host, nint count) => host;

        public override T* InOut<T>(T* host, nint count) => host;

        public override void Finish()
        {
        }

        public override T[] Read<T>(T* device, nint count) => new ReadOnlySpan<T>(device, checked((int)count)).ToArray();

        public void Launch(string file, string kernel, (int X, int Y, int Z) grid, int threads, int sharedBytes, params ReadOnlySpan<CudaParameter> parameters)
        {
            Assert.True(grid is { X: > 0, Y: > 0 and <= 65535, Z: > 0 and <= 65535 } && sharedBytes <= 48 * 1024, $"{kernel}: a GPU has no grid {grid} with {sharedBytes} bytes of shared memory.");
            CudaEmulation.Of(file).Launch(kernel, grid, threads, sharedBytes, parameters);
        }

        public void* Scratch(long bytes)
        {
            var memory = new NativeArray<byte>((nint)bytes);
            memory.Span.Fill(0xFF);
            _scratch.Add(memory);
            return memory.Pointer;
        }

        public void* Keep(long bytes) => Scratch(bytes);

        public override void Dispose() => _scratch.ForEach(static memory => memory.Dispose());
    }
}
