using Microsoft.Extensions.Diagnostics.HealthChecks;

namespace Ernie.Sdk.Hosting;

/// <summary>Healthy when the model can answer, with how busy it is. A model that waits for its first use to be loaded is healthy too.</summary>
internal sealed class ErnieHealthCheck(HostedModel host) : IHealthCheck
{
    public Task<HealthCheckResult> CheckHealthAsync(HealthCheckContext context, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(context);
        return Task.FromResult(Check(context.Registration.FailureStatus));
    }

    private HealthCheckResult Check(HealthStatus failure)
    {
        if (host.Loaded is { } model)
        {
            var (free, all) = model.KvBlocks;
            return HealthCheckResult.Healthy($"{model.ModelId} is loaded.", new Dictionary<string, object>
            {
                ["model"] = model.ModelId,
                ["waitingRequests"] = model.WaitingRequests,
                ["kvCacheUsage"] = (double)(all - free) / all,
            });
        }
        return host.Loading switch
        {
            { IsCompleted: true } failed => new HealthCheckResult(failure, "The model cannot be loaded.", failed.Exception?.InnerException),
            null when !host.LoadsAtStart => HealthCheckResult.Healthy("The model will be loaded at its first use."),
            _ => new HealthCheckResult(failure, "The model is being loaded."),
        };
    }
}
