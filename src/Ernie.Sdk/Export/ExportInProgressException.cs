namespace Ernie.Sdk.Export;

/// <summary>Another export, of this or another process, is writing the same output.</summary>
internal sealed class ExportInProgressException(string partial, Exception inner)
    : IOException($"Another export is writing {partial}. Wait for it, or export to another folder.", inner);
