using Microsoft.Extensions.Hosting;

namespace Ernie.Sdk.Hosting;

/// <summary>Begins to load a model when the host starts, and does not hold the start up.</summary>
internal sealed class ModelWarmUp(HostedModel model) : IHostedService
{
    public Task StartAsync(CancellationToken cancellationToken)
    {
        // What goes wrong is logged by the load, told by the health check and thrown to whoever uses the model.
        if (model.LoadsAtStart) _ = model.GetAsync(CancellationToken.None).ContinueWith(static failed => failed.Exception, CancellationToken.None, TaskContinuationOptions.OnlyOnFaulted, TaskScheduler.Default);
        return Task.CompletedTask;
    }

    public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;
}
