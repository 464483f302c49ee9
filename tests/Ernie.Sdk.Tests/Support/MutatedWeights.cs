using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Tests.Support;

/// <summary>A checkpoint with a mistake in it: another configuration, weights under each other's names, or other values.</summary>
internal sealed class MutatedWeights(IWeightSource inner) : IWeightSource
{
    public ErnieConfig Config { get; init; } = inner.Config;
    /// <summary>Name of the weight to give for a name.</summary>
    public Func<string, string> Rename { get; init; } = static name => name;
    /// <summary>Changes a weight [rows, columns] in place.</summary>
    public Action<CheckpointTensor, float[]>? Edit { get; init; }

    public CheckpointTensor Tensor(string canonicalName)
    {
        var tensor = inner.Tensor(Rename(canonicalName));
        var values = new float[tensor.Count];
        tensor.Read(0, values);
        Edit?.Invoke(tensor, values);
        return new Values(values) { Name = canonicalName, File = tensor.File, Rows = tensor.Rows, Columns = tensor.Columns, Type = StoredType.Float32 };
    }

    private sealed class Values(float[] values) : CheckpointTensor
    {
        public override void Read(long firstRow, Span<float> destination) => values.AsSpan((int)(firstRow * Columns), destination.Length).CopyTo(destination);
    }
}
