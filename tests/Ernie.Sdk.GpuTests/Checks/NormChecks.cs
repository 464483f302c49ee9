using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.GpuTests.Checks;

/// <summary>The residual's norm of a kernel family against the reference.</summary>
internal static unsafe class NormChecks
{
    private const float Epsilon = 1e-5f;
    private static readonly ReferenceKernels s_reference = new();

    public static IReadOnlyList<(int Tokens, int Columns)> Shapes { get; } = [(1, 1), (3, 31), (2, 256), (1, 2560), (5, 1000), (20, 70), (1, 8192)];

    public static void EqualsReference(CpuKernels kernels, IParallelRunner runner, int tokens, int columns, Findings findings)
    {
        for (var added = 0; added <= 2; added++)
        {
            using var test = new Case(tokens, columns, added);
            var (expectedSum, expected) = test.Run(s_reference, runner);
            var (sum, y) = test.Run(kernels, runner);
            findings.SameBits(expectedSum, sum, $"sum of {tokens} × {columns}, {added} added");
            findings.SameBits(y, test.Run(arguments => kernels.AddRmsNorm(arguments with { Sum = null }, test.Context(runner))), $"norm of {tokens} × {columns}, {added} added, without the sum");
            findings.Near(expected, y, 1e-7, 2e-6, $"norm of {tokens} × {columns}, {added} added");
        }
    }

    /// <summary>A norm that quantises gives what quantising it afterwards would give, whatever is not finite.</summary>
    public static void QuantisesAsProductsDo(LaunchedKernels kernels, int tokens, int columns, Findings findings)
    {
        using var test = new Case(tokens, columns, 2);
        if (columns > 40) test.Input[35] = float.NaN;
        var blocks = tokens * ((columns + 31) / 32);
        using NativeArray<byte> codes = new(blocks * 32), expectedCodes = new(blocks * 32);
        using NativeArray<ulong> scales = new(blocks), expectedScales = new(blocks);
        var y = test.Run(arguments => kernels.AddRmsNorm(arguments, codes.Pointer, scales.Pointer));
        using var output = NativeArray<float>.From(y);
        kernels.QuantiseRows(output.Pointer, tokens, columns, expectedCodes.Pointer, expectedScales.Pointer);
        findings.Same([.. expectedCodes.Span.ToArray().Select(static code => (int)code)], [.. codes.Span.ToArray().Select(static code => (int)code)], "codes");
        findings.True(expectedScales.Span.SequenceEqual(scales.Span), "The scales differ.");
    }

    private sealed class Case : IDisposable
    {
        private readonly int _tokens, _columns, _added;
        private readonly NativeArray<float> _x, _a, _b, _weight;
        private readonly ScratchBuffer _scratch = new();

        public Case(int tokens, int columns, int added)
        {
            (_tokens, _columns, _added) = (tokens, columns, added);
            var random = new Random(columns + added);
            NativeArray<float> Floats(int count, float scale) => NativeArray<float>.From(RandomTensor.Floats(random, count, scale));
            (_x, _a, _b, _weight) = (Floats(tokens * columns, 4), Floats(tokens * columns, 4), Floats(tokens * columns, 4), Floats(columns, 2));
        }

        public Span<float> Input => _x.Span;

        public KernelContext Context(IParallelRunner runner) => new(runner, _scratch);

        public (float[] Sum, float[] Y) Run(CpuKernels kernels, IParallelRunner runner)
        {
            using NativeArray<float> sum = new(_tokens * _columns), y = new(_tokens * _columns);
            kernels.AddRmsNorm(Arguments(_added == 0 ? null : sum.Pointer, y.Pointer), Context(runner));
            return (_added == 0 ? [] : sum.Span.ToArray(), y.Span.ToArray());
        }

        public float[] Run(Action<AddRmsNormArguments> norm)
        {
            using NativeArray<float> sum = new(_tokens * _columns), y = new(_tokens * _columns);
            norm(Arguments(sum.Pointer, y.Pointer));
            return y.Span.ToArray();
        }

        public void Dispose()
        {
            foreach (var array in new[] { _x, _a, _b, _weight }) array.Dispose();
            _scratch.Dispose();
        }

        private AddRmsNormArguments Arguments(float* sum, float* y) => new()
        {
            Input = _x.Pointer, First = _added > 0 ? _a.Pointer : null, Second = _added > 1 ? _b.Pointer : null, Weight = _weight.Pointer, TokenCount = _tokens, Columns = _columns, Epsilon = Epsilon, Sum = sum, Output = y,
        };
    }
}
