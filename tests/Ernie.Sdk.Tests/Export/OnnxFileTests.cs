using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Quantization;
using Google.Protobuf;
using Onnx;

namespace Ernie.Sdk.Tests.Export;

/// <summary>What the exporter writes, read by somebody else's ONNX classes; and the graphs of the tiny and the full-size models as approved text.</summary>
public sealed partial class OnnxFileTests
{
    public static TheoryData<string, bool> Graphs { get; } = new() { { "tiny", false }, { "tiny", true }, { "0.3b", false }, { "21b", false }, { "300b", false }, { "300b", true }, { "tiny-packed", false }, { "21b-packed", false } };

    private const string Packed = "-packed";

    [Theory]
    [MemberData(nameof(Graphs))]
    public void Model_ReadsBackWithoutUnknownFields(string name, bool debugOutputs)
    {
        var (bytes, _) = Build(name, debugOutputs);
        var model = ModelProto.Parser.ParseFrom(bytes);
        Assert.Equal(model, ModelProto.Parser.WithDiscardUnknownFields(true).ParseFrom(bytes));
        ProtobufBytes.Same(bytes, model.ToByteArray(), "model");
        Assert.Equal(10, model.IrVersion);
        Assert.Equal("Ernie.Sdk", model.ProducerName);
        Assert.Equal([("", 23L), ("ernie", 1L)], model.OpsetImport.Select(static opset => (opset.Domain, opset.Version)));
        Assert.All(model.Graph.Node, static node => Assert.Contains(node.Domain, new[] { "", "ernie" }));
    }

    [Theory]
    [MemberData(nameof(Graphs))]
    public void Nodes_ReadOnlyWhatStandsAbove(string name, bool debugOutputs)
    {
        var graph = ModelProto.Parser.ParseFrom(Build(name, debugOutputs).Bytes).Graph;
        var known = graph.Input.Select(static input => input.Name).Concat(graph.Initializer.Select(static tensor => tensor.Name)).ToHashSet();
        Assert.Equal(graph.Input.Count + graph.Initializer.Count, known.Count);
        var used = new HashSet<string>();
        foreach (var node in graph.Node)
        {
            foreach (var input in node.Input)
            {
                Assert.True(known.Contains(input), $"Node {node.Name} reads {input} before it is there.");
                used.Add(input);
            }
            foreach (var output in node.Output) Assert.True(known.Add(output), $"Node {node.Name} makes {output} a second time.");
        }
        Assert.Equal(graph.Node.Count, graph.Node.Select(static node => node.Name).Distinct().Count());
        Assert.All(graph.Output, output => Assert.Contains(output.Name, known));
        used.UnionWith(graph.Output.Select(static output => output.Name));
        Assert.Empty(known.Except(used));
    }

    [Theory]
    [MemberData(nameof(Graphs))]
    public void Weights_AreAlignedAndApart(string name, bool debugOutputs)
    {
        var (bytes, length) = Build(name, debugOutputs);
        var config = Config(name);
        long end = 0;
        foreach (var tensor in ModelProto.Parser.ParseFrom(bytes).Graph.Initializer)
        {
            var entries = tensor.ExternalData.ToDictionary(static entry => entry.Key, static entry => entry.Value);
            Assert.Equal(["length", "location", "offset"], entries.Keys.Order());
            Assert.Equal(TensorProto.Types.DataLocation.External, tensor.DataLocation);
            Assert.Equal(ModelManifest.WeightFile, entries["location"]);
            var offset = long.Parse(entries["offset"], CultureInfo.InvariantCulture);
            Assert.Equal(0, offset % 4096);
            Assert.InRange(offset, end, long.MaxValue);
            end = offset + long.Parse(entries["length"], CultureInfo.InvariantCulture);
            Assert.Equal(tensor.Dims.Aggregate((TensorProto.Types.DataType)tensor.DataType switch { TensorProto.Types.DataType.Float => 4L, TensorProto.Types.DataType.Bfloat16 => 2L, _ => 1L }, static (size, dimension) => size * dimension), end - offset);
            Assert.InRange(end, offset, length);
            Assert.Matches(WeightPath(), tensor.Name);
        }
        Assert.InRange(length, end, end + 4095);
        var bits = end * 8.0 / ParameterCount(config);
        if (name.EndsWith(Packed, StringComparison.Ordinal)) Assert.InRange(bits, 2.06, 9);
        else Assert.InRange(bits, 16, 16.4);
    }

    [Fact]
    public async Task ExportedFile_IsTheGraphAndItsWeights()
    {
        var folder = await TinyModel.ExportedAsync();
        var bytes = await File.ReadAllBytesAsync(Path.Combine(folder, ModelManifest.ModelFile), TestContext.Current.CancellationToken);
        var manifest = ModelManifest.Read(folder);
        Assert.Equal(manifest.WeightBytes, new FileInfo(Path.Combine(folder, ModelManifest.WeightFile)).Length);
        var tensors = ModelProto.Parser.ParseFrom(bytes).Graph.Initializer;
        Assert.Equal(
            manifest.Tensors.Select(static t => (t.Name, t.Offset, t.Bytes)),
            tensors.Select(static t => (t.Name, Number(t, "offset"), Number(t, "length"))));
        Assert.Equal(Build("tiny", false).Bytes, bytes);
    }

    [Theory]
    [InlineData("tiny")]
    [InlineData("21b")]
    [InlineData("300b")]
    [InlineData("tiny-packed")]
    public void Graph_IsTheApprovedOne(string name) =>
        Approved.Equal($"Export/Graph.{name}.approved.txt", Summary(ModelProto.Parser.ParseFrom(Build(name, debugOutputs: false).Bytes)));

    private static long Number(TensorProto tensor, string key) => long.Parse(tensor.ExternalData.Single(entry => entry.Key == key).Value, CultureInfo.InvariantCulture);

    private static long ParameterCount(ErnieConfig config) => Ernie.Sdk.Engine.ParameterCount.Of(config).Total;

    private static ErnieConfig Config(string name)
    {
        switch (name.Replace(Packed, "", StringComparison.Ordinal))
        {
            case "0.3b": return ReleasedShapes.Small03B;
            case "21b": return ReleasedShapes.Medium21B;
            case "300b": return ReleasedShapes.Large300B;
            default:
                using (var checkpoint = Checkpoint.Open(TinyModel.Checkpoint)) return checkpoint.Config;
        }
    }

    /// <summary>The model file and the length of the weight file; no weights are needed.</summary>
    private static (byte[] Bytes, long WeightBytes) Build(string name, bool debugOutputs)
    {
        var formats = name.EndsWith(Packed, StringComparison.Ordinal)
            ? ModelFormats.Of(WeightFormat.Int2, WeightFormat.Int8(0)) with { Exceptions = new Dictionary<string, WeightFormat> { [ErnieGraph.ExpertDown(2)] = WeightFormat.Int4(64) } }
            : ModelFormats.Of(WeightFormat.BFloat16, WeightFormat.BFloat16);
        var graph = ErnieGraph.Build(Config(name), formats, debugOutputs);
        var weights = WeightFileWriter.Plan(graph.Weights);
        return (graph.Build(ModelManifest.WeightFile, weights.Offsets, typeof(ErnieExporter).Assembly.GetName().Version!.ToString(3)), weights.TotalBytes);
    }

    /// <summary>One line for each value and node; layers that are alike stand once.</summary>
    private static string Summary(ModelProto model)
    {
        var lines = new List<(int Layer, string Text)>();
        // A line belongs to the layer of what it describes; other layers' values in it are told by their distance.
        void Add(string kind, string name, string rest)
        {
            var match = LayerNumber().Match(name);
            var layer = match.Success ? Number(match) : -1;
            lines.Add((layer, $"{kind} {LayerNumber().Replace(name + rest, other => layer < 0 ? other.Value : $"{other.Groups[1].Value}{Relative(Number(other) - layer)}")}"));
        }

        var graph = model.Graph;
        foreach (var opset in model.OpsetImport) Add("opset", opset.Domain.Length == 0 ? "ai.onnx" : opset.Domain, $" {opset.Version}");
        foreach (var input in graph.Input) Add("input", input.Name, Describe(input));
        foreach (var output in graph.Output) Add("output", output.Name, Describe(output));
        foreach (var tensor in graph.Initializer) Add("weight", tensor.Name, $" {(TensorProto.Types.DataType)tensor.DataType}[{string.Join(", ", tensor.Dims)}]");
        foreach (var node in graph.Node)
        {
            var attributes = node.Attribute.Select(static a => $"{a.Name}={(a.Type == AttributeProto.Types.AttributeType.Float ? a.F.ToString("R", CultureInfo.InvariantCulture) : a.I.ToString(CultureInfo.InvariantCulture))}");
            Add($"node {(node.Domain.Length == 0 ? "" : node.Domain + ".")}{node.OpType}", node.Name,
                $" ({string.Join(", ", node.Input)}) -> {string.Join(", ", node.Output)}{(node.Attribute.Count == 0 ? "" : $" {{{string.Join(", ", attributes)}}}")}");
        }

        var text = new StringBuilder();
        for (var i = 0; i < lines.Count;)
        {
            if (lines[i].Layer < 0)
            {
                text.AppendLine(lines[i++].Text);
                continue;
            }
            var first = lines[i].Layer;
            var block = BlockAt(lines, i);
            var last = first;
            for (i += block.Count; i < lines.Count && lines[i].Layer == last + 1 && BlockAt(lines, i).SequenceEqual(block); i += block.Count) last++;
            text.AppendLine(CultureInfo.InvariantCulture, $"layer {(first == last ? $"{first}" : $"{first} .. {last}")}:");
            foreach (var line in block) text.AppendLine("  " + line);
        }
        return text.ToString();
    }

    private static int Number(Match match) => int.Parse(match.Groups[2].ValueSpan, CultureInfo.InvariantCulture);

    private static string Relative(int distance) => distance == 0 ? "{layer}" : $"{{layer{distance:+0;-0}}}";

    private static List<string> BlockAt(List<(int Layer, string Text)> lines, int start) =>
        [.. lines.Skip(start).TakeWhile(line => line.Layer == lines[start].Layer).Select(static line => line.Text)];

    private static string Describe(ValueInfoProto value) =>
        $" {(TensorProto.Types.DataType)value.Type.TensorType.ElemType}[{string.Join(", ", value.Type.TensorType.Shape.Dim.Select(static d => d.DimParam.Length > 0 ? d.DimParam : d.DimValue.ToString(CultureInfo.InvariantCulture)))}]";

    [GeneratedRegex(@"(model\.layers\.|kv_cache\.)(\d+)")]
    private static partial Regex LayerNumber();

    [GeneratedRegex(@"^(model\.embed_tokens|model\.norm|lm_head|model\.layers\.\d+\.(input_layernorm|post_attention_layernorm|self_attn\.(qkv|o)_proj|mlp\.(gate_up_proj|down_proj|gate|experts\.gate_up_proj|experts\.down_proj|shared_experts\.gate_up_proj|shared_experts\.down_proj)))\.weight$|^model\.layers\.\d+\.mlp\.moe_statics\.e_score_correction_bias$")]
    private static partial Regex WeightPath();
}
