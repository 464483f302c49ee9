using Ernie.Sdk.Native;

namespace Ernie.Sdk.Kernels;

/// <summary>The GPU kernels that this assembly carries as PTX, compiled by the driver for one context when they are first asked for. Used by one thread at a time.</summary>
/// <param name="context">Where they run.</param>
/// <param name="open">The PTX of a file for a target, as in <c>("norm", "sm_80")</c>; null if there is none.</param>
internal sealed class CudaModules(CudaContext context, Func<string, string, Stream?> open) : IDisposable
{
    private const string OverlappingTarget = "sm_90a";
    private readonly Dictionary<string, (CudaModule Code, string Target)> _modules = [];
    private readonly Dictionary<(string, string), CudaFunction> _functions = [];

    /// <summary>Those of the assembly's resources.</summary>
    public CudaModules(CudaContext context) : this(context, CudaPtx.Open)
    {
    }

    /// <summary>Targets whose PTX runs on a GPU, best first: <c>sm_80</c> on every later one, <c>sm_90a</c> on compute capability 9.0 alone.</summary>
    public static IReadOnlyList<string> TargetsOf(Version computeCapability) => computeCapability == new Version(9, 0) ? ["sm_90a", "sm_80"] : ["sm_80"];

    /// <summary>
    /// Whether a kernel may begin while the one before it ends, which hides most of what a launch costs (programmatic dependent launch). Only the text for compute capability 9.0 waits itself, so nothing overlaps elsewhere.
    /// </summary>
    public bool Overlaps { get; init; }

    /// <exception cref="InvalidOperationException">There is no such file.</exception>
    /// <exception cref="CudaException">The driver cannot compile it, or it has no such kernel.</exception>
    public CudaFunction Function(string file, string kernel)
    {
        if (_functions.TryGetValue((file, kernel), out var function)) return function;
        var module = Module(file);
        return _functions[(file, kernel)] = module.Code.Function(kernel, Overlaps && module.Target == OverlappingTarget);
    }

    /// <summary>Compiles files now, which takes the driver seconds where it has not kept them from an earlier process.</summary>
    /// <exception cref="CudaException">The driver cannot compile one of them.</exception>
    public void Compile(params IEnumerable<string> files)
    {
        foreach (var file in files) Module(file);
    }

    public void Dispose()
    {
        foreach (var (code, _) in _modules.Values) code.Dispose();
        _modules.Clear();
        _functions.Clear();
    }

    private (CudaModule Code, string Target) Module(string file)
    {
        if (!_modules.TryGetValue(file, out var module)) _modules.Add(file, module = Load(file));
        return module;
    }

    private (CudaModule Code, string Target) Load(string file)
    {
        var targets = TargetsOf(context.Device.ComputeCapability);
        foreach (var target in targets)
        {
            using var stream = open(file, target);
            if (stream is null) continue;
            var ptx = new byte[stream.Length];
            stream.ReadExactly(ptx);
            try
            {
                return (context.Load(ptx), target);
            }
            catch (CudaException e)
            {
                throw new CudaException(e.Result, $"{e.Call} of {file}.{target}.ptx", e.ErrorName, e.Text);
            }
        }
        throw new InvalidOperationException($"There is no PTX of {file} for {string.Join(" or ", targets)}.");
    }
}
