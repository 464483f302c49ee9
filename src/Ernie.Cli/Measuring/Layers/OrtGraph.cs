using System.Globalization;
using Ernie.Sdk.Export;
using Ernie.Sdk.Native;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Cli.Measuring.Layers;

/// <summary>
/// A graph of ONNX Runtime's own operators over weights in a temporary file, which goes with it. Unlike an exported model's its weights have shapes of their own, and its session is left at ONNX Runtime's defaults.
/// </summary>
internal sealed unsafe class OrtGraph : IDisposable
{
    private const string Microsoft = "com.microsoft";
    private const string WeightFile = "weights";
    private readonly ProtobufWriter _graph = new ProtobufWriter().String(2, "peer");
    private readonly string _folder = Directory.CreateTempSubdirectory("ernie-bench-").FullName;
    private readonly FileStream _weights;

    public OrtGraph() => _weights = File.Create(Path.Combine(_folder, WeightFile));

    public string Weight(string name, TensorElementKind kind, byte* data, nint bytes, params ReadOnlySpan<long> shape)
    {
        // ONNX Runtime maps whole pages.
        _weights.Position = (_weights.Length + 4095) / 4096 * 4096;
        var tensor = new ProtobufWriter();
        foreach (var size in shape) tensor.Int(1, size);
        tensor.Int(2, (long)kind).String(8, name).Message(13, Entry("location", WeightFile)).Message(13, Entry("offset", Text(_weights.Position))).Message(13, Entry("length", Text(bytes))).Int(14, 1);
        _graph.Message(5, tensor);
        for (nint done = 0; done < bytes; done += 1 << 28) _weights.Write(new ReadOnlySpan<byte>(data + done, (int)Math.Min(1 << 28, bytes - done)));
        return name;
    }

    public string Node(string op, string output, ReadOnlySpan<string> inputs, params ReadOnlySpan<(string Name, object Value)> attributes)
    {
        var node = new ProtobufWriter();
        foreach (var input in inputs) node.String(1, input);
        node.String(2, output).String(3, output).String(4, op);
        foreach (var (name, value) in attributes)
        {
            var attribute = new ProtobufWriter().String(1, name);
            node.Message(5, value switch
            {
                float f => attribute.Float(2, f).Int(20, 1),
                string s => attribute.String(4, s).Int(20, 3),
                _ => attribute.Int(3, Convert.ToInt64(value, CultureInfo.InvariantCulture)).Int(20, 2),
            });
        }
        if (op is "MatMulNBits" or "QMoE") node.String(7, Microsoft);
        _graph.Message(1, node);
        return output;
    }

    /// <summary>An input [tokens, columns].</summary>
    public string Input(string name, long columns, TensorElementKind kind = TensorElementKind.Float)
    {
        _graph.Message(11, Value(name, columns, kind));
        return name;
    }

    public void Output(string name, long columns, TensorElementKind kind = TensorElementKind.Float) => _graph.Message(12, Value(name, columns, kind));

    /// <param name="threads">On the CPU.</param>
    /// <param name="configure">Adds what else the session needs.</param>
    public InferenceSession Session(int threads, Action<SessionOptions>? configure = null)
    {
        _weights.Flush();
        var model = Path.Combine(_folder, "model.onnx");
        File.WriteAllBytes(model, new ProtobufWriter().Int(1, 10).Message(7, _graph).Message(8, new ProtobufWriter().String(1, "").Int(2, 21)).Message(8, new ProtobufWriter().String(1, Microsoft).Int(2, 1)).ToArray());
        using var options = new SessionOptions { IntraOpNumThreads = threads, InterOpNumThreads = 1, GraphOptimizationLevel = GraphOptimizationLevel.ORT_ENABLE_ALL };
        // Its threads may spin as they do by default, but not on into someone else's turn.
        options.AddSessionConfigEntry("session.force_spinning_stop", "1");
        configure?.Invoke(options);
        return new InferenceSession(model, options);
    }

    public void Dispose()
    {
        _weights.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    private static ProtobufWriter Value(string name, long columns, TensorElementKind kind)
    {
        var shape = new ProtobufWriter().Message(1, new ProtobufWriter().String(2, "tokens")).Message(1, new ProtobufWriter().Int(1, columns));
        return new ProtobufWriter().String(1, name).Message(2, new ProtobufWriter().Message(1, new ProtobufWriter().Int(1, (long)kind).Message(2, shape)));
    }

    private static string Text(long value) => value.ToString(CultureInfo.InvariantCulture);

    private static ProtobufWriter Entry(string key, string value) => new ProtobufWriter().String(1, key).String(2, value);
}
