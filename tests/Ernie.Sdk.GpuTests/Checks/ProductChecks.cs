using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.GpuTests.Checks;

/// <summary>Linear layers and experts of a kernel family against the reference.</summary>
internal sealed class ProductChecks(CpuKernels kernels, IParallelRunner runner)
{
    // Sums in float against sums in double, |y| of order 1.
    public const double LinearTolerance = 1e-5, ExpertsTolerance = 2e-5;
    private static readonly ReferenceKernels s_reference = new();
    private static readonly int[] s_first = [0, 1, 2], s_scattered = [6, 1, 4], s_sorted = [1, 4, 6];

    public void Linear(WeightFormat format, IEnumerable<(int Tokens, int Rows, int Columns)> shapes, Findings findings)
    {
        var seed = 0;
        foreach (var (tokens, rows, columns) in shapes)
        {
            foreach (var swiGlu in new[] { false, true })
            {
                if (format.Kind == WeightKind.Int2 && columns % Wint2.InputsPerScaleByte != 0) continue;
                using var test = new LinearCase(++seed, tokens, swiGlu ? rows * 2 : rows, columns, format, swiGlu);
                findings.Near(test.Run(s_reference, runner), test.Run(kernels, runner), LinearTolerance, LinearTolerance, $"{kernels.Name} {format} {(swiGlu ? "SwiGLU" : "linear")} of {tokens} tokens, {rows} × {columns}");
            }
        }
    }

    /// <summary>In every tiling, and alone.</summary>
    public void LinearBits(WeightFormat format, Func<CudaTiling, CpuKernels> tiled, Findings findings)
    {
        const int tokens = 35, rows = 300, columns = 640;
        using var test = new LinearCase(6, tokens, rows, columns, format, swiGlu: true);
        var all = test.Run(kernels, runner);
        foreach (var tiling in Enum.GetValues<CudaTiling>()) findings.SameBits(all, test.Run(tiled(tiling), runner), $"{format} tiled {tiling}");
        foreach (var t in new[] { 0, 7, 34 }) findings.SameBits(all.AsSpan(t * rows / 2, rows / 2), test.Run(kernels, runner, t, t + 1), $"{format}, token {t}");
    }

    public void Experts(WeightFormat format, IEnumerable<(int Tokens, int Hidden, int Intermediate, int Experts, int PerToken)> shapes, Findings findings)
    {
        var seed = 0;
        foreach (var (tokens, hidden, intermediate, experts, perToken) in shapes)
        {
            if (format.Kind == WeightKind.Int2 && (hidden % Wint2.InputsPerScaleByte != 0 || intermediate % Wint2.InputsPerScaleByte != 0)) continue;
            using var test = new ExpertsCase(++seed, tokens, hidden, intermediate, experts, perToken, format);
            Near(test.Run(s_reference, runner), test.Run(kernels, runner), $"{kernels.Name} {format} {tokens} tokens, {hidden}/{intermediate}, {perToken} of {experts}", findings, format.IsPacked);
        }
    }

    public void ExpertsBits(WeightFormat format, Findings findings)
    {
        const int hidden = 256;
        using var test = new ExpertsCase(9, 90, hidden, 128, 12, 4, format);
        var all = test.Run(kernels, runner);
        foreach (var t in new[] { 0, 41, 89 })
        {
            var alone = test.Run(kernels, runner, t, t + 1, 0, 12);
            findings.SameBits(all.Output.AsSpan(t * hidden, hidden), alone.Output, $"{format}, token {t}");
            findings.Same(all.Selected[(4 * t)..(4 * t + 4)], alone.Selected, $"{format}, experts of token {t}");
        }
    }

    /// <summary>One expert with all tokens and one with none, and layers in two halves.</summary>
    public void UnevenExperts(Findings findings)
    {
        using (var test = new ExpertsCase(3, 37, 48, 30, 8, 2, WeightFormat.BFloat16))
        {
            test.Bias.Span[5] = 10;
            test.Bias.Span[2] = -10;
            var expected = test.Run(s_reference, runner);
            for (var t = 0; t < 37; t++) findings.True(expected.Selected[2 * t] == 5, $"token {t} does not choose the expert that it must.");
            findings.True(!expected.Selected.Contains(2), "An expert is chosen that cannot be.");
            Near(expected, test.Run(kernels, runner), $"{kernels.Name}, uneven", findings);
        }
        using var halves = new ExpertsCase(4, 21, 50, 24, 8, 3, WeightFormat.Float32);
        var whole = halves.Run(kernels, runner);
        var first = halves.Run(kernels, runner, 0, 21, 0, 3);
        var second = halves.Run(kernels, runner, 0, 21, 3, 8, optionalOutputs: false);
        findings.Same(whole.Selected, first.Selected, "experts of a half");
        findings.Near(whole.Output, [.. first.Output.Zip(second.Output, static (a, b) => a + b)], 1e-6, 1e-6, "halves");
        Near(halves.Run(s_reference, runner, 0, 21, 0, 3), first, "first half", findings);
        findings.Near(whole.Output, halves.Run(kernels, runner, 0, 21, 0, 8, routing: whole).Output, 0, 0, "routed elsewhere");
    }

    /// <summary>Two devices have some experts each, one of them routes, and one adds the other's sum.</summary>
    public static void Parts(LaunchedKernels kernels, IParallelRunner runner, Findings findings)
    {
        using var test = new ExpertsCase(5, 19, 300, 24, 8, 3, WeightFormat.Float32);
        var whole = test.Run(kernels, runner);
        using var sum = new NativeArray<float>(whole.Output.Length);
        using var part = new NativeArray<float>(whole.Output.Length);
        test.Run(kernels, runner, 0, 19, 0, 3, routing: whole).Output.CopyTo(sum.Span);
        test.Run(s_reference, runner, 0, 19, 3, 8, routing: whole).Output.CopyTo(part.Span);
        unsafe
        {
            kernels.AddPartial(part.Pointer, sum.Pointer, 19, 300);
        }
        findings.Near(whole.Output, sum.Span, ExpertsTolerance, ExpertsTolerance, "experts of two devices");
    }

    /// <summary>A device has some experts in any order, and another computes all choices that are not of these.</summary>
    public static void Resident(LaunchedKernels kernels, IParallelRunner runner, Findings findings)
    {
        foreach (var format in WeightFormat.All)
        {
            using var test = new ExpertsCase(8, 19, 256, 128, 8, 3, format);
            var whole = test.Run(kernels, runner);
            findings.SameBits(test.Run(kernels, runner, 0, 19, 0, 3, routing: whole).Output, test.Run(kernels, runner, s_first, whole), $"{format}: first three experts in slots");
            var resident = test.Run(kernels, runner, s_scattered, whole);
            findings.SameBits(resident, test.Run(kernels, runner, s_sorted, whole), $"{format}: other order of slots");
            using var sum = NativeArray<float>.From(resident);
            using var part = NativeArray<float>.From(test.Run(s_reference, runner, 0, 19, 0, 8, routing: whole with { Selected = [.. whole.Selected.Select(static e => s_scattered.Contains(e) ? -1 : e)] }).Output);
            unsafe
            {
                kernels.AddPartial(part.Pointer, sum.Pointer, 19, 256);
            }
            // As of activations on an edge between two codes, see Near.
            findings.Near(whole.Output, sum.Span, format.IsPacked ? 0.004 * whole.Output.Max(Math.Abs) : ExpertsTolerance, ExpertsTolerance, $"{format}: experts of two devices");
        }
    }

    public static void Near(ExpertsResult expected, ExpertsResult actual, string what, Findings findings, bool isPacked = false)
    {
        findings.Same(expected.Selected, actual.Selected, what);
        findings.Near(expected.Weights, actual.Weights, 1e-6, 1e-6, what + " weights");
        if (!isPacked)
        {
            findings.Near(expected.Output, actual.Output, ExpertsTolerance, ExpertsTolerance, what);
            return;
        }
        // The activations between the two products are quantised: where one lies on an edge, the last bit of silu decides, and a whole step of it reaches the outputs of that token.
        var far = expected.Output.Zip(actual.Output).Count(static pair => !(Math.Abs(pair.First - pair.Second) <= ExpertsTolerance + ExpertsTolerance * Math.Abs(pair.First)));
        findings.True(far <= expected.Output.Length / 8, $"{what}: {far} of {expected.Output.Length} outputs differ by more than {ExpertsTolerance}.");
        findings.Near(expected.Output, actual.Output, 0.004 * expected.Output.Max(Math.Abs), ExpertsTolerance, what);
    }
}
