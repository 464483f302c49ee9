namespace Ernie.Sdk;

/// <summary>A request was refused because the model computes as many as it can at once and <see cref="ErnieModelOptions.MaxQueuedRequests"/> others wait already. Try again later.</summary>
public sealed class ErnieQueueFullException : InvalidOperationException
{
    internal ErnieQueueFullException(int waiting)
        : base(waiting switch
        {
            0 => "As many requests are computed as can be at once, and ErnieModelOptions.MaxQueuedRequests lets none wait. Try again later.",
            1 => "1 request waits already beside those that are computed, as many as ErnieModelOptions.MaxQueuedRequests allows. Try again later.",
            _ => $"{waiting} requests wait already beside those that are computed, as many as ErnieModelOptions.MaxQueuedRequests allows. Try again later.",
        }) => WaitingRequests = waiting;

    /// <summary>Gets how many requests were waiting.</summary>
    public int WaitingRequests { get; }
}
