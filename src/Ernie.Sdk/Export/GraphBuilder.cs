using Ernie.Sdk.Native;

namespace Ernie.Sdk.Export;

/// <summary>Collects the nodes of an ONNX graph and writes it. A value is its name; a node is named after the weight path it stands for. Field numbers are onnx.proto's.</summary>
internal sealed class GraphBuilder
{
    private const long IrVersion = 10;
    private readonly ProtobufWriter _graph = new();
    private readonly List<(string Domain, long Version)> _opsets = [];
    private readonly List<ProtobufWriter> _inputs = [], _outputs = [];
    private readonly HashSet<string> _names = [];

    public GraphBuilder(string name) => _graph.String(2, name);

    /// <summary>Weights the graph refers to, in the order of their first use: the order of the weight file.</summary>
    public List<ExportedWeight> Weights { get; } = [];

    public GraphBuilder Opset(string domain, long version)
    {
        _opsets.Add((domain, version));
        return this;
    }

    /// <summary>Declares an input; a dimension is a number or a symbol.</summary>
    public string Input(string name, TensorElementKind kind, params ReadOnlySpan<object> shape)
    {
        _inputs.Add(ValueInfo(name, kind, shape));
        return name;
    }

    public void Output(string name, TensorElementKind kind, params ReadOnlySpan<object> shape) => _outputs.Add(ValueInfo(name, kind, shape));

    /// <summary>Refers to a weight, adding it on first use.</summary>
    public string Weight(ExportedWeight weight)
    {
        if (_names.Add(weight.Name)) Weights.Add(weight);
        return weight.Name;
    }

    /// <summary>Adds a node with one output and returns that value's name.</summary>
    public string Node(string op, string domain, string name, ReadOnlySpan<string> inputs, params ReadOnlySpan<(string Name, object Value)> attributes)
    {
        var output = name + ".output";
        Node(op, domain, name, inputs, [output], attributes);
        return output;
    }

    /// <summary>Adds a node; an empty name stands for an input or output that is left out.</summary>
    public void Node(string op, string domain, string name, ReadOnlySpan<string> inputs, ReadOnlySpan<string> outputs, ReadOnlySpan<(string Name, object Value)> attributes)
    {
        var node = new ProtobufWriter();
        foreach (var input in inputs) node.String(1, input);
        foreach (var output in outputs)
        {
            if (output.Length > 0 && !_names.Add(output)) throw new InvalidOperationException($"Two values are called {output}.");
            node.String(2, output);
        }
        node.String(3, name).String(4, op);
        foreach (var (attribute, value) in attributes) node.Message(5, Attribute(attribute, value));
        if (domain.Length > 0) node.String(7, domain);
        _graph.Message(1, node);
    }

    /// <summary>Writes the ModelProto; weights are external data in <paramref name="weightFile"/> at the offsets their plan gives.</summary>
    public byte[] Build(string weightFile, IReadOnlyDictionary<string, long> offsets, string producerVersion)
    {
        foreach (var weight in Weights)
        {
            var tensor = new ProtobufWriter();
            foreach (var size in weight.GraphShape) tensor.Int(1, size);
            tensor.Int(2, (long)weight.ElementKind).String(8, weight.Name);
            tensor.Message(13, Entry("location", weightFile)).Message(13, Entry("offset", Invariant(offsets[weight.Name]))).Message(13, Entry("length", Invariant(weight.Bytes)));
            tensor.Int(14, 1);
            _graph.Message(5, tensor);
        }
        foreach (var input in _inputs) _graph.Message(11, input);
        foreach (var output in _outputs) _graph.Message(12, output);
        var model = new ProtobufWriter().Int(1, IrVersion).String(2, "Ernie.Sdk").String(3, producerVersion).Message(7, _graph);
        foreach (var (domain, version) in _opsets) model.Message(8, new ProtobufWriter().String(1, domain).Int(2, version));
        return model.ToArray();
    }

    private static string Invariant(long value) => value.ToString(System.Globalization.CultureInfo.InvariantCulture);

    private static ProtobufWriter Entry(string key, string value) => new ProtobufWriter().String(1, key).String(2, value);

    private static ProtobufWriter Attribute(string name, object value)
    {
        var attribute = new ProtobufWriter().String(1, name);
        return value switch
        {
            float f => attribute.Float(2, f).Int(20, 1),
            int i => attribute.Int(3, i).Int(20, 2),
            long l => attribute.Int(3, l).Int(20, 2),
            string s => attribute.String(4, s).Int(20, 3),
            _ => throw new ArgumentException($"Attribute {name} has a value of type {value.GetType()}."),
        };
    }

    private static ProtobufWriter ValueInfo(string name, TensorElementKind kind, ReadOnlySpan<object> shape)
    {
        var dimensions = new ProtobufWriter();
        foreach (var size in shape)
        {
            var dimension = new ProtobufWriter();
            if (size is string symbol) dimension.String(2, symbol);
            else dimension.Int(1, Convert.ToInt64(size, System.Globalization.CultureInfo.InvariantCulture));
            dimensions.Message(1, dimension);
        }
        var type = new ProtobufWriter().Int(1, (long)kind).Message(2, dimensions);
        return new ProtobufWriter().String(1, name).Message(2, new ProtobufWriter().Message(1, type));
    }
}
