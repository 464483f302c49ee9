namespace Ernie.Sdk.Tests.Support;

/// <summary>Tells on the reporting thread, at once.</summary>
internal sealed class DirectProgress(Action<ErnieProgress> report) : IProgress<ErnieProgress>
{
    public void Report(ErnieProgress value) => report(value);
}
