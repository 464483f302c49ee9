using Microsoft.Extensions.Logging;

namespace Ernie.Sdk.Checkpoints;

/// <summary>A checkpoint folder, opened: its configuration, and every weight under its canonical name.</summary>
internal sealed class Checkpoint : IWeightSource, IDisposable
{
    public static Checkpoint Open(string folder, ILogger? logger = null) => throw new NotImplementedException();

    public string Folder => throw new NotImplementedException();
    public ErnieConfig Config => throw new NotImplementedException();
    public CheckpointLayout Layout => throw new NotImplementedException();
    /// <summary>What the reader had to decide: defaults taken for absent keys, keys overruled by tensors, tensors skipped.</summary>
    public IReadOnlyList<string> Notes => throw new NotImplementedException();
    public CheckpointTensor Tensor(string canonicalName) => throw new NotImplementedException();
    public void Dispose() => throw new NotImplementedException();
}
