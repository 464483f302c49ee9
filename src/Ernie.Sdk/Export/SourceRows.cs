using System.Numerics.Tensors;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Export;

/// <summary>The rows of an exported weight, wherever in its source tensors they lie. Thread-safe.</summary>
internal sealed class SourceRows
{
    private readonly IReadOnlyList<CheckpointTensor> _tensors;
    /// <summary>First row of each tensor, and last the number of all rows.</summary>
    private readonly long[] _starts;

    /// <exception cref="InvalidDataException">The tensors are not those of the weight.</exception>
    public SourceRows(ExportedWeight weight, IWeightSource source)
    {
        Weight = weight;
        _tensors = [.. weight.Sources.Select(source.Tensor)];
        _starts = new long[_tensors.Count + 1];
        for (var i = 0; i < _tensors.Count; i++)
        {
            if (_tensors[i].Columns != weight.Columns) throw new InvalidDataException($"{_tensors[i].File}: tensor {_tensors[i].Name} has {_tensors[i].Columns} inputs, expected {weight.Columns}.");
            _starts[i + 1] = _starts[i] + _tensors[i].Rows;
        }
        if (_starts[^1] != weight.Rows) throw new InvalidDataException($"{weight.Name}: its source tensors hold {_starts[^1]} rows, the configuration asks for {weight.Rows}.");
    }

    public ExportedWeight Weight { get; }

    /// <summary>Canonical name of the tensor that a row belongs to.</summary>
    public string NameAt(long row) => _tensors[TensorAt(row)].Name;

    /// <summary>Whether all these rows are stored in the weight's packed format.</summary>
    public bool ArePacked(long firstRow, long count) => Weight.Format.IsPacked && Parts(firstRow, count).All(part => part.Tensor.Holds(Weight.Format));

    /// <summary>Copies rows that are stored in the weight's format into panels, bit for bit; <paramref name="firstRow"/> begins a panel.</summary>
    public void ReadPanels(in PanelLayout layout, long firstRow, long count, Span<byte> panels)
    {
        foreach (var (tensor, row, rows, at) in Parts(firstRow, count)) tensor.ReadPanels(layout, row, (int)rows, (int)at, panels);
    }

    /// <summary>Reads rows as float, [count, columns].</summary>
    /// <exception cref="InvalidDataException">A weight is NaN or infinite.</exception>
    public void Read(long firstRow, Span<float> values)
    {
        var columns = (int)Weight.Columns;
        foreach (var (tensor, row, rows, at) in Parts(firstRow, values.Length / columns))
        {
            var part = values.Slice((int)at * columns, (int)rows * columns);
            tensor.Read(row, part);
            if (!TensorPrimitives.IsFiniteAll<float>(part)) ThrowNonFinite(tensor, row, part);
        }
    }

    private IEnumerable<(CheckpointTensor Tensor, long Row, long Rows, long At)> Parts(long firstRow, long count)
    {
        for (long at = 0; at < count;)
        {
            var index = TensorAt(firstRow + at);
            var rows = Math.Min(count - at, _starts[index + 1] - firstRow - at);
            yield return (_tensors[index], firstRow + at - _starts[index], rows, at);
            at += rows;
        }
    }

    private int TensorAt(long row)
    {
        var index = Array.BinarySearch(_starts, row);
        return index >= 0 ? index : ~index - 1;
    }

    private static void ThrowNonFinite(CheckpointTensor tensor, long firstRow, ReadOnlySpan<float> values)
    {
        var index = 0;
        while (float.IsFinite(values[index])) index++;
        throw new InvalidDataException(
            $"{tensor.File}: tensor {tensor.Name} holds {values[index]} at row {firstRow + index / tensor.Columns}, column {index % tensor.Columns}; weights must be finite. Download the file again.");
    }
}
