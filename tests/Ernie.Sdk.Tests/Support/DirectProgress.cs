namespace Ernie.Sdk.Tests.Support;

/// <summary>Tells on the reporting thread, at once.</summary>
internal sealed class DirectProgress<T>(Action<T> report) : IProgress<T>
{
    public void Report(T value) => report(value);
}
