namespace Ernie.Sdk;

/// <summary>How far loading, an export or a verification has come.</summary>
/// <param name="Stage">What is being done: the name of a tensor or file.</param>
/// <param name="BytesDone">Bytes written or checked so far.</param>
/// <param name="BytesTotal">Bytes in all.</param>
/// <param name="Elapsed">Time since the start.</param>
public readonly record struct ErnieProgress(string Stage, long BytesDone, long BytesTotal, TimeSpan Elapsed)
{
    /// <summary>Gets the average rate so far in bytes a second; 0 before anything is done.</summary>
    public double BytesPerSecond => Elapsed > TimeSpan.Zero ? BytesDone / Elapsed.TotalSeconds : 0;

    /// <summary>Gets the estimated time that remains at the average rate, or <see langword="null"/> before there is a rate.</summary>
    public TimeSpan? Remaining => BytesPerSecond > 0 ? TimeSpan.FromSeconds((BytesTotal - BytesDone) / BytesPerSecond) : null;
}
