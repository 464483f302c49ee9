namespace Ernie.Sdk.Kernels;

/// <summary>sum = x + (a + b); y = sum / sqrt(mean(sum²) + epsilon) · weight. The sum is rounded to float, as the residual stream is kept; squares are added in double.</summary>
internal static unsafe class ReferenceNorm
{
    public static void Run(in AddRmsNormArguments arguments)
    {
        for (var row = 0; row < arguments.TokenCount; row++)
        {
            var first = (nint)row * arguments.Columns;
            var sum = new float[arguments.Columns];
            double squares = 0;
            for (var c = 0; c < arguments.Columns; c++)
            {
                sum[c] = arguments.Input[first + c];
                if (arguments.First != null) sum[c] += arguments.Second != null ? arguments.First[first + c] + arguments.Second[first + c] : arguments.First[first + c];
                squares += (double)sum[c] * sum[c];
            }
            var root = Math.Sqrt(squares / arguments.Columns + arguments.Epsilon);
            for (var c = 0; c < arguments.Columns; c++)
            {
                if (arguments.Sum != null) arguments.Sum[first + c] = sum[c];
                arguments.Output[first + c] = (float)(sum[c] / root * arguments.Weight[c]);
            }
        }
    }
}
