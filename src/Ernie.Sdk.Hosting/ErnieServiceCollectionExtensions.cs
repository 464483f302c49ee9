using Ernie.Sdk;
using Ernie.Sdk.Hosting;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Diagnostics.HealthChecks;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Options;

namespace Microsoft.Extensions.DependencyInjection;

/// <summary>Adds ERNIE models to a host.</summary>
public static class ErnieServiceCollectionExtensions
{
    private const string Section = "Ernie";

    /// <summary>
    /// Adds a model as <see cref="IChatClient"/>, and as <see cref="ErnieModel"/>, which waits for the load where it is resolved. It is loaded once, in the background while the host starts; requests wait for it.
    /// </summary>
    /// <param name="services">The host's services.</param>
    /// <param name="configure">Changes what the section <c>Ernie</c> of the configuration says.</param>
    /// <returns>The client's pipeline: add function invocation, caching, telemetry.</returns>
    /// <remarks>The configuration is checked when the host starts, which fails with <see cref="OptionsValidationException"/> or, for a setting that cannot be read, <see cref="InvalidDataException"/>.</remarks>
    public static ChatClientBuilder AddErnieChatClient(this IServiceCollection services, Action<ErnieHostingOptions>? configure = null)
    {
        ArgumentNullException.ThrowIfNull(services);
        Add(services, null, configure);
        return services.AddChatClient(static provider => new HostedChatClient(provider.GetRequiredService<HostedModel>()));
    }

    /// <summary>As <see cref="AddErnieChatClient"/>, for one of several models: the services have the key, and the section of the configuration is <c>Ernie:KEY</c>.</summary>
    /// <param name="services">The host's services.</param>
    /// <param name="serviceKey">Key of the services.</param>
    /// <param name="configure">Changes what the configuration says.</param>
    /// <returns>The client's pipeline.</returns>
    public static ChatClientBuilder AddKeyedErnieChatClient(this IServiceCollection services, object serviceKey, Action<ErnieHostingOptions>? configure = null)
    {
        ArgumentNullException.ThrowIfNull(services);
        ArgumentNullException.ThrowIfNull(serviceKey);
        Add(services, serviceKey, configure);
        return services.AddKeyedChatClient(serviceKey, provider => new HostedChatClient(provider.GetRequiredKeyedService<HostedModel>(serviceKey)));
    }

    /// <summary>Adds a check that fails while a model is being loaded, and when it cannot be loaded.</summary>
    /// <param name="builder">The host's health checks.</param>
    /// <param name="serviceKey">The model's key, if it has one.</param>
    /// <param name="name">Name of the check.</param>
    /// <param name="failureStatus">What failing means; null for unhealthy.</param>
    /// <param name="tags">Tags that select checks.</param>
    /// <returns>The builder.</returns>
    public static IHealthChecksBuilder AddErnieHealthCheck(this IHealthChecksBuilder builder, object? serviceKey = null, string name = "ernie", HealthStatus? failureStatus = null, IEnumerable<string>? tags = null)
    {
        ArgumentNullException.ThrowIfNull(builder);
        return builder.Add(new HealthCheckRegistration(name, provider => new ErnieHealthCheck(provider.GetRequiredKeyedService<HostedModel>(serviceKey)), failureStatus, tags));
    }

    private static void Add(IServiceCollection services, object? key, Action<ErnieHostingOptions>? configure)
    {
        if (services.Any(service => service.ServiceType == typeof(HostedModel) && Equals(service.ServiceKey, key)))
            throw new InvalidOperationException(key is null ? "A model without a key was added already. Use AddKeyedErnieChatClient for another." : $"A model with the key '{key}' was added already.");
        var name = key is null ? Options.Options.DefaultName : $"{key}";
        services.AddOptions<ErnieHostingOptions>(name).Configure<IServiceProvider>((options, provider) =>
        {
            if (provider.GetService<IConfiguration>() is { } configuration) options.Bind(configuration.GetSection(key is null ? Section : $"{Section}:{key}"));
            configure?.Invoke(options);
        }).ValidateOnStart();
        services.TryAddEnumerable(ServiceDescriptor.Singleton<IValidateOptions<ErnieHostingOptions>, ErnieHostingOptionsValidator>());
        // A null key is none.
        services.AddKeyedSingleton(key, (provider, _) => new HostedModel(
            provider.GetRequiredService<IOptionsMonitor<ErnieHostingOptions>>().Get(name), provider.GetService<ILoggerFactory>() ?? NullLoggerFactory.Instance));
        services.AddKeyedSingleton(key, (provider, _) => provider.GetRequiredKeyedService<HostedModel>(key).GetAsync(CancellationToken.None).GetAwaiter().GetResult());
        services.AddSingleton<IHostedService>(provider => new ModelWarmUp(provider.GetRequiredKeyedService<HostedModel>(key)));
    }
}
