namespace Ernie.Sdk.Checkpoints;

/// <summary>Where an export takes its weights from: a checkpoint folder, or a generator of random weights.</summary>
internal interface IWeightSource
{
    ErnieConfig Config { get; }

    /// <summary>A weight by its canonical name (<see cref="TensorNames"/>).</summary>
    /// <exception cref="InvalidDataException">There is no such weight.</exception>
    CheckpointTensor Tensor(string canonicalName);
}
