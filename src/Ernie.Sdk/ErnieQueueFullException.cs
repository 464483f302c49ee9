namespace Ernie.Sdk;

/// <summary>A request was refused because the model computes as many as it can at once and <see cref="ErnieModelOptions.MaxQueuedRequests"/> others wait already. Try again later.</summary>
public sealed class ErnieQueueFullException : InvalidOperationException
{
    internal ErnieQueueFullException(int waiting)
        : base($"{waiting} requests wait already beside those that are computed, as many as ErnieModelOptions.MaxQueuedRequests allows. Try again later.") => WaitingRequests = waiting;

    /// <summary>Gets how many requests were waiting.</summary>
    public int WaitingRequests { get; }
}
