using Ernie.Sdk.GpuTests.Cases;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;
using Ernie.Sdk.Tests.Support;

namespace Ernie.Sdk.Tests.Kernels.Cuda;

/// <summary>Operators of one step, which keep codes for one another, give the bits of operators that know of no step, with fewer launches.</summary>
public sealed unsafe class CudaStepTests
{
    private const int Hidden = 256, Width = 160;
    private static readonly WeightFormat s_format = WeightFormat.Int4(64);

    [Theory]
    [InlineData(1, 4)]
    [InlineData(3, 4)]
    [InlineData(40, 6)]
    public void ABlock_HasTheSameBits(int tokens, int launches)
    {
        using var block = new Block(tokens);
        var (alone, _) = block.Run(null);
        var (inStep, count) = block.Run(new CudaStep(CudaStepKind.Mixed) { Quantises = true });
        TensorAssert.SameBits(alone, inStep, "block");
        // A norm that quantises, gates and ups, and down of few tokens; of many, gates and ups, their SwiGLU, its codes and down.
        Assert.Equal(launches - 1, count);
    }

    [Fact]
    public void WhatIsWrittenOver_IsQuantisedAnew()
    {
        using var block = new Block(2);
        var step = new CudaStep(CudaStepKind.Mixed) { Quantises = true };
        block.Run(step);
        // The block has left codes of its middle, which a product has used up, and of its norm; other numbers come to lie there.
        foreach (var place in new[] { block.Middle, block.Normed })
        {
            RandomTensor.Floats(new Random(5), (int)place.Length, 2).CopyTo(place.Span);
            step.Written(place.Pointer);
            TensorAssert.SameBits(block.Multiply(null, place), block.Multiply(step, place), "product");
        }
        // Nobody says that these are other numbers, but a product ran between.
        block.Run(step);
        block.Multiply(step, block.Normed);
        RandomTensor.Floats(new Random(6), (int)block.Middle.Length, 2).CopyTo(block.Middle.Span);
        TensorAssert.SameBits(block.Multiply(null, block.Middle), block.Multiply(step, block.Middle), "product");
    }

    /// <summary>A norm, gates and ups with their SwiGLU, and down.</summary>
    private sealed class Block : IDisposable
    {
        private readonly int _tokens;
        private readonly NativeArray<float> _input, _norm, _sum, _output;
        private readonly NativeArray<byte> _gateUp, _down;

        public Block(int tokens)
        {
            CudaEmulation.Of("norm");
            CudaEmulation.Of("linear");
            var random = new Random(tokens);
            _tokens = tokens;
            _input = NativeArray<float>.From(RandomTensor.Floats(random, tokens * Hidden, 2));
            _norm = NativeArray<float>.From(RandomTensor.Floats(random, Hidden, 2));
            _gateUp = RandomTensor.Weight(random, 2, Width, Hidden, s_format, 0.1);
            _down = RandomTensor.Weight(random, 1, Hidden, Width, s_format, 0.1);
            (_sum, Normed, Middle, _output) = (new(tokens * Hidden), new(tokens * Hidden), new(tokens * Width), new(tokens * Hidden));
        }

        public NativeArray<float> Normed { get; }
        public NativeArray<float> Middle { get; }

        public (float[] Output, int Launches) Run(CudaStep? step)
        {
            using var launcher = new Launcher();
            var launches = new CudaLaunches(launcher, step);
            launches.AddRmsNorm(new AddRmsNormArguments { Input = _input.Pointer, First = _input.Pointer, Weight = _norm.Pointer, TokenCount = _tokens, Columns = Hidden, Epsilon = 1e-5f, Sum = _sum.Pointer, Output = Normed.Pointer });
            launches.Linear(new LinearArguments { Input = Normed.Pointer, TokenCount = _tokens, Weight = new PackedMatrix(s_format, _gateUp.Pointer, 2 * Width, Hidden, Width), SwiGlu = true, Output = Middle.Pointer });
            launches.Linear(new LinearArguments { Input = Middle.Pointer, TokenCount = _tokens, Weight = new PackedMatrix(s_format, _down.Pointer, Hidden, Width, Hidden), Output = _output.Pointer });
            return (_output.Span.ToArray(), launcher.Count);
        }

        /// <summary>One row of either length times a matrix that has as many columns.</summary>
        public float[] Multiply(CudaStep? step, NativeArray<float> rows)
        {
            using var launcher = new Launcher();
            var isMiddle = rows == Middle;
            using var output = new NativeArray<float>(_tokens * (isMiddle ? Hidden : 2 * Width));
            var weight = isMiddle ? new PackedMatrix(s_format, _down.Pointer, Hidden, Width, Hidden) : new PackedMatrix(s_format, _gateUp.Pointer, 2 * Width, Hidden, Width);
            new CudaLaunches(launcher, step).Linear(new LinearArguments { Input = rows.Pointer, TokenCount = _tokens, Weight = weight, Output = output.Pointer });
            return output.Span.ToArray();
        }

        public void Dispose()
        {
            foreach (var array in new[] { _input, _norm, _sum, Normed, Middle, _output }) array.Dispose();
            _gateUp.Dispose();
            _down.Dispose();
        }
    }

    private sealed class Launcher : ICudaLauncher, IDisposable
    {
        // What is kept for a step lives as long as the process: steps of these tests outlive their launchers.
        private static readonly List<NativeArray<byte>> s_kept = [];
        private readonly List<NativeArray<byte>> _scratch = [];

        public int Count { get; private set; }

        public void Launch(string file, string kernel, (int X, int Y, int Z) grid, int threads, int sharedBytes, params ReadOnlySpan<CudaParameter> parameters)
        {
            Count++;
            CudaEmulation.Of(file).Launch(kernel, grid, threads, sharedBytes, parameters);
        }

        public void* Scratch(long bytes) => Take(bytes, _scratch);

        public void* Keep(long bytes)
        {
            lock (s_kept) return Take(bytes, s_kept);
        }

        public void Dispose() => _scratch.ForEach(static memory => memory.Dispose());

        private static void* Take(long bytes, List<NativeArray<byte>> list)
        {
            var memory = new NativeArray<byte>((nint)bytes);
            memory.Span.Fill(0xFF);
            list.Add(memory);
            return memory.Pointer;
        }
    }
}
