using System.Collections.Concurrent;
using Ernie.Sdk.Hosting;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Diagnostics.HealthChecks;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;

namespace Ernie.Sdk.Tests.Hosting;

/// <summary>Models as services of a host.</summary>
public sealed class HostingTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task AClient_FromConfiguration_AnswersThroughItsPipeline_AndDisposesTheModelWithTheHost()
    {
        var log = new RecordedLog();
        using var host = await StartAsync(log, builder =>
        {
            builder.Services.AddErnieChatClient().Use(static inner => new SuffixingClient(inner));
            builder.Services.AddHealthChecks().AddErnieHealthCheck();
        }, ("Ernie:ModelPath", await TinyModel.ExportedAsync()), ("Ernie:Model:KvCacheType", "float32"), ("Ernie:Model:ContextLength", "777"), ("Ernie:Model:Threads", "2"));
        var client = host.Services.GetRequiredService<IChatClient>();
        Assert.Equal("ernie", client.GetService<ChatClientMetadata>()!.ProviderName);
        var response = await client.GetResponseAsync("What is the capital of Norway?", new ChatOptions { Temperature = 0 }, Token);
        Assert.Contains("Oslo", response.Text, StringComparison.Ordinal);
        Assert.EndsWith("!!", response.Text, StringComparison.Ordinal);

        var model = host.Services.GetRequiredService<ErnieModel>();
        Assert.Equal(777, model.ContextLength);
        Assert.Same(model, client.GetService<ErnieModel>());
        var report = await host.Services.GetRequiredService<HealthCheckService>().CheckHealthAsync(Token);
        Assert.Equal(HealthStatus.Healthy, report.Status);
        Assert.Equal(model.ModelId, report.Entries["ernie"].Data["model"]);

        Assert.Contains(log.Lines, static line => line.Contains("finish reason stop", StringComparison.Ordinal));
        Assert.Single(log.Lines, static line => line.Contains("is ready after", StringComparison.Ordinal));
        Assert.DoesNotContain(log.Lines, static line => line.Contains("Norway", StringComparison.Ordinal) || line.Contains("Oslo", StringComparison.Ordinal));

        await host.StopAsync(Token);
        host.Dispose();
        Assert.Throws<ObjectDisposedException>(model.GetExpertLoad);
        await Assert.ThrowsAsync<ObjectDisposedException>(() => client.GetResponseAsync("x", cancellationToken: Token));
    }

    [Fact]
    public async Task KeyedClients_HaveModelsOfTheirOwn()
    {
        var path = await TinyModel.ExportedAsync();
        using var host = await StartAsync(null, builder =>
        {
            builder.Services.AddErnieChatClient(static options => options.LoadAtStart = false);
            builder.Services.AddKeyedErnieChatClient("short");
            builder.Services.AddKeyedErnieChatClient("code", options =>
            {
                options.ModelPath = path;
                options.Model.ContextLength = 300;
            });
            Assert.Throws<InvalidOperationException>(() => builder.Services.AddKeyedErnieChatClient("short"));
            Assert.Throws<InvalidOperationException>(() => builder.Services.AddErnieChatClient());
        }, ("Ernie:ModelPath", path), ("Ernie:short:ModelPath", path), ("Ernie:short:Model:ContextLength", "200"));
        var services = host.Services;
        Assert.Equal([200, 300], new[] { "short", "code" }.Select(key => services.GetRequiredKeyedService<ErnieModel>(key).ContextLength));
        Assert.Contains("Oslo", (await services.GetRequiredKeyedService<IChatClient>("code").GetResponseAsync("What is the capital of Norway?", new ChatOptions { Temperature = 0 }, Token)).Text, StringComparison.Ordinal);
        // Without a key, loaded by this first use.
        var client = services.GetRequiredService<IChatClient>();
        Assert.Null(client.GetService<ErnieModel>());
        var streamed = await client.GetStreamingResponseAsync("What is the capital of Norway?", new ChatOptions { Temperature = 0 }, Token).ToListAsync(Token);
        Assert.Contains("Oslo", string.Concat(streamed.Select(static u => u.Text)), StringComparison.Ordinal);
        Assert.NotSame(services.GetRequiredKeyedService<ErnieModel>("short"), client.GetService<ErnieModel>());
    }

    [Theory]
    [InlineData("Ernie:ModelPath", "", "Ernie:ModelPath is missing")]
    [InlineData("Ernie:ModelPath", "/no/such/folder", "/no/such/folder")]
    [InlineData("Ernie:Model:MaxQueuedRequests", "-1", "Ernie:Model:MaxQueuedRequests must not be negative")]
    [InlineData("Ernie:Model:ContextLength", "1000000", "Ernie:Model:ContextLength may be at most")]
    [InlineData("Ernie:Model", "x", "Ernie:Model is 'x'; expected a section")]
    [InlineData("Ernie:ModelPath:Folder", "x", "Ernie:ModelPath is a section; expected a text")]
    [InlineData("Ernie:Model:Threads", "many", "Ernie:Model:Threads is 'many'; expected an integer")]
    [InlineData("Ernie:Model:KvCacheType", "Int3", "expected BFloat16, Float32, Int8")]
    [InlineData("Ernie:Model:KvCacheType", "1", "expected BFloat16, Float32, Int8")]
    [InlineData("Ernie:Model:Thread", "1", "Ernie:Model:Thread is unknown")]
    [InlineData("Ernie:LoadAtStart", "maybe", "expected true or false")]
    [InlineData("Ernie:Path", "x", "Ernie:Path is unknown")]
    public async Task WrongConfiguration_StopsTheStart_WithItsName(string key, string value, string expected)
    {
        var failure = await Assert.ThrowsAnyAsync<Exception>(async () => (await StartAsync(null, static builder => builder.Services.AddErnieChatClient(), ("Ernie:ModelPath", TinyModel.Checkpoint), (key, value))).Dispose());
        Assert.True(failure is OptionsValidationException or InvalidDataException, failure.ToString());
        Assert.Contains(expected, failure.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(null, "neither an exported model (ernie.json) nor a checkpoint")]
    [InlineData("config.json", "config.json")]
    [InlineData("ernie.json", "ernie.json")]
    public async Task AFolderWithoutAModel_StopsTheStart_WithTheNameOfItsSetting(string? file, string expected)
    {
        using var folder = new TemporaryFolder();
        if (file is not null) await File.WriteAllTextAsync(folder.File(file), "{", Token);
        var failure = await Assert.ThrowsAsync<OptionsValidationException>(async () => (await StartAsync(null, static builder => builder.Services.AddKeyedErnieChatClient("code"), ("Ernie:code:ModelPath", folder.Path))).Dispose());
        Assert.StartsWith($"Ernie:code:ModelPath: {folder.Path}", failure.Message, StringComparison.Ordinal);
        Assert.Contains(expected, failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Health_FollowsTheLoad()
    {
        var path = await TinyModel.ExportedAsync();
        // What is wrong with it shows when the weights are looked for.
        using var damaged = new TemporaryFolder();
        foreach (var file in Directory.GetFiles(path)) File.Copy(file, damaged.File(Path.GetFileName(file)));
        using (var weights = File.OpenWrite(damaged.File("model.weights"))) weights.SetLength(weights.Length / 2);
        var log = new RecordedLog();
        using var host = await StartAsync(log, builder =>
        {
            builder.Services.AddKeyedErnieChatClient("damaged", o => o.ModelPath = damaged.Path);
            builder.Services.AddKeyedErnieChatClient("late", o => (o.ModelPath, o.LoadAtStart) = (path, false));
            // As the README says: one check for each key.
            builder.Services.AddHealthChecks().AddErnieHealthCheck("damaged", "damaged", HealthStatus.Degraded).AddErnieHealthCheck("late", "late");
        });
        var client = host.Services.GetRequiredKeyedService<IChatClient>("damaged");
        var failure = await Assert.ThrowsAsync<InvalidDataException>(() => client.GetResponseAsync("x", cancellationToken: Token));
        Assert.Contains("model.weights", failure.Message, StringComparison.Ordinal);
        Assert.Single(log.Lines, static line => line.StartsWith("Critical", StringComparison.Ordinal));
        var checks = host.Services.GetRequiredService<HealthCheckService>();
        var report = await checks.CheckHealthAsync(Token);
        Assert.Equal(HealthStatus.Degraded, report.Entries["damaged"].Status);
        Assert.Same(failure, report.Entries["damaged"].Exception);
        Assert.Equal((HealthStatus.Healthy, 0), (report.Entries["late"].Status, report.Entries["late"].Data.Count));
        await host.Services.GetRequiredKeyedService<IChatClient>("late").GetResponseAsync("x", new ChatOptions { MaxOutputTokens = 1 }, Token);
        Assert.NotEmpty((await checks.CheckHealthAsync(Token)).Entries["late"].Data);
    }

    [Fact]
    public async Task ACallerThatStopsWaiting_DoesNotStopTheLoad()
    {
        var path = await TinyModel.ExportedAsync();
        var services = new ServiceCollection();
        services.AddErnieChatClient(o => o.ModelPath = path);
        await using var provider = services.BuildServiceProvider();
        var client = provider.GetRequiredService<IChatClient>();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => client.GetResponseAsync("x", cancellationToken: new CancellationToken(canceled: true)));
        Assert.NotEqual("", (await client.GetResponseAsync("Who are you?", new ChatOptions { Temperature = 0 }, Token)).Text);
    }

    private static async Task<IHost> StartAsync(RecordedLog? log, Action<HostApplicationBuilder> configure, params (string Key, string Value)[] settings)
    {
        var builder = new HostApplicationBuilder(new HostApplicationBuilderSettings { DisableDefaults = true });
        builder.Configuration.AddInMemoryCollection(settings.GroupBy(static s => s.Key).Select(static group => KeyValuePair.Create(group.Key, (string?)group.Last().Value)));
        builder.Logging.SetMinimumLevel(LogLevel.Debug);
        if (log is not null) builder.Logging.AddProvider(log);
        configure(builder);
        var host = builder.Build();
        try
        {
            await host.StartAsync(Token);
            return host;
        }
        catch
        {
            host.Dispose();
            throw;
        }
    }

    private sealed class SuffixingClient(IChatClient inner) : DelegatingChatClient(inner)
    {
        public override async Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default)
        {
            var response = await base.GetResponseAsync(messages, options, cancellationToken);
            response.Messages[^1].Contents.Add(new TextContent("!!"));
            return response;
        }
    }

    private sealed class RecordedLog : ILoggerProvider, ILogger
    {
        public ConcurrentQueue<string> Lines { get; } = new();

        public ILogger CreateLogger(string categoryName) => this;

        public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) => Lines.Enqueue($"{logLevel}: {formatter(state, exception)}");

        public void Dispose()
        {
        }
    }
}
