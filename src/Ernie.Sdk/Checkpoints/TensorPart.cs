namespace Ernie.Sdk.Checkpoints;

/// <summary>Where a weight may lie: rows [<paramref name="FirstRow"/>, …) of a stored matrix with <paramref name="StoredRows"/> outputs, or of matrix <paramref name="Index"/> in a stack of <paramref name="StackSize"/>.</summary>
internal readonly record struct TensorPart(string Stem, int StoredRows, int FirstRow = 0, int StackSize = 0, int Index = 0);
