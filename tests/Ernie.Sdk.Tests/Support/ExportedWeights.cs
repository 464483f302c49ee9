using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Tests.Support;

/// <summary>The weights of an exported model as floats, by the kernels' addressing.</summary>
internal sealed class ExportedWeights(string folder)
{
    private readonly byte[] _bytes = File.ReadAllBytes(Path.Combine(folder, ModelManifest.WeightFile));

    public ModelManifest Manifest { get; } = ModelManifest.Read(folder);

    public IReadOnlyList<ExportedWeight> All => ErnieGraph.Build(Manifest.Config, Manifest.Formats, Manifest.DebugOutputs).Weights;

    /// <summary>[rows, columns], padding left out.</summary>
    public unsafe float[] Read(ExportedWeight weight)
    {
        var stored = Manifest.Tensors.Single(tensor => tensor.Name == weight.Name);
        var (rows, columns) = ((int)weight.Rows, (int)weight.Columns);
        var values = new float[rows * columns];
        fixed (byte* data = &_bytes[stored.Offset])
        {
            var matrix = new PackedMatrix(weight.Format, data, rows, columns, (nint)weight.SectionRows);
            for (var row = 0; row < rows; row++) ReferenceLinear.Weights(matrix, row, values.AsSpan(row * columns, columns));
        }
        return values;
    }

    /// <summary>Bytes of one tensor.</summary>
    public ReadOnlySpan<byte> Bytes(string name)
    {
        var stored = Manifest.Tensors.Single(tensor => tensor.Name == name);
        return _bytes.AsSpan((int)stored.Offset, (int)stored.Bytes);
    }
}
