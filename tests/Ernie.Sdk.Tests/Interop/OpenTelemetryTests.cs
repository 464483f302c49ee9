using System.Collections.Concurrent;
using System.Diagnostics;
using Microsoft.Extensions.AI;
using OpenTelemetry;
using OpenTelemetry.Metrics;
using OpenTelemetry.Trace;

namespace Ernie.Sdk.Tests.Interop;

/// <summary>Traces and metrics of a chat as an exporter of OpenTelemetry gets them: Microsoft.Extensions.AI's of the client, and the engine's own.</summary>
public sealed class OpenTelemetryTests : IAsyncLifetime
{
    private const string Engine = "Ernie.Sdk";
    private readonly string _source = $"interop-{Guid.NewGuid():N}";
    private readonly Tools _tools = new();
    private CountedModel _model = null!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync() => _model = await CountedModel.LoadAsync();

    public ValueTask DisposeAsync() => _model.DisposeAsync();

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task ATrace_HasTheAgentsLoop_ItsChats_TheirRequests_AndTheTool(bool isStreaming)
    {
        var exported = new ConcurrentBag<Activity>();
        UsageDetails usage;
        ActivityTraceId trace;
        using (OpenTelemetry.Sdk.CreateTracerProviderBuilder().AddSource(_source, Engine).AddProcessor(new SimpleActivityExportProcessor(new BagExporter(exported))).Build())
        using (var source = new ActivitySource(_source))
        using (var root = source.StartActivity("test"))
        using (var client = _model.Client.AsBuilder().UseFunctionInvocation().UseOpenTelemetry(sourceName: _source).Build())
        {
            trace = root!.TraceId;
            const string Question = "How is the weather in Xentadal?";
            var response = isStreaming
                ? (await client.GetStreamingResponseAsync(Question, CountedModel.Greedy(_tools.Weather), Token).ToListAsync(Token)).ToChatResponse()
                : await client.GetResponseAsync(Question, CountedModel.Greedy(_tools.Weather), Token);
            Assert.Contains("snowy", response.Text, StringComparison.Ordinal);
            usage = response.Usage!;
            Assert.Same(root, Activity.Current);
        }

        // Others of these tests run models meanwhile.
        var activities = exported.Where(a => a.TraceId == trace).OrderBy(static a => a.StartTimeUtc).ToList();
        var chats = activities.FindAll(static a => a.OperationName == "chat ernie-tiny-moe");
        var requests = activities.FindAll(static a => a.OperationName == "text_completion ernie-tiny-moe");
        var tool = Assert.Single(activities, static a => a.OperationName == "execute_tool get_weather");
        Assert.Equal((2, 2), (chats.Count, requests.Count));
        Assert.Equal(chats.Select(static a => a.SpanId), requests.Select(static a => a.ParentSpanId));
        Assert.DoesNotContain(tool.SpanId, chats.Concat(requests).Select(static a => a.ParentSpanId));
        foreach (var (chat, request) in chats.Zip(requests))
        {
            Assert.Equal(("ernie", "ernie-tiny-moe", "ernie-tiny-moe"), (chat.GetTagItem("gen_ai.provider.name"), chat.GetTagItem("gen_ai.request.model"), chat.GetTagItem("gen_ai.response.model")));
            Assert.StartsWith("ernie-", (string)chat.GetTagItem("gen_ai.response.id")!, StringComparison.Ordinal);
            Assert.Equal((0f, 120), (Convert.ToSingle(chat.GetTagItem("gen_ai.request.temperature"), null), Convert.ToInt32(chat.GetTagItem("gen_ai.request.max_tokens"), null)));
            Assert.Equal((Count(chat, "input"), Count(chat, "output")), (Count(request, "input"), Count(request, "output")));
            Assert.Equal("ernie", request.GetTagItem("gen_ai.provider.name"));
            Assert.Equal(ActivityKind.Client, chat.Kind);
            Assert.Equal(ActivityKind.Internal, request.Kind);
            Assert.InRange(request.Duration, TimeSpan.FromTicks(1), chat.Duration);
        }
        Assert.Equal((usage.InputTokenCount, usage.OutputTokenCount), (chats.Sum(static a => Count(a, "input")), chats.Sum(static a => Count(a, "output"))));
        Assert.Equal(["tool_calls", "stop"], chats.Select(static a => Assert.Single((IEnumerable<string>)JsonOrArray(a.GetTagItem("gen_ai.response.finish_reasons")))));
        // Nobody asked for texts.
        Assert.DoesNotContain(activities.SelectMany(static a => a.TagObjects), static tag => tag.Value?.ToString()?.Contains("Xentadal", StringComparison.Ordinal) == true);
    }

    [Fact]
    public async Task Texts_AreTold_WhereSensitiveDataIsAskedFor()
    {
        var exported = new ConcurrentBag<Activity>();
        using (OpenTelemetry.Sdk.CreateTracerProviderBuilder().AddSource(_source).AddProcessor(new SimpleActivityExportProcessor(new BagExporter(exported))).Build())
        using (var client = _model.Client.AsBuilder().UseOpenTelemetry(sourceName: _source, configure: static c => c.EnableSensitiveData = true).Build())
        {
            await client.GetResponseAsync("How is the weather in Xentadal?", CountedModel.Greedy(_tools.Weather), Token);
        }
        var chat = Assert.Single(exported);
        Assert.Contains("How is the weather in Xentadal?", (string)chat.GetTagItem("gen_ai.input.messages")!, StringComparison.Ordinal);
        var output = (string)chat.GetTagItem("gen_ai.output.messages")!;
        Assert.Contains("\"reasoning\"", output, StringComparison.Ordinal);
        Assert.Contains("\"tool_call\"", output, StringComparison.Ordinal);
        Assert.Contains("get_weather", (string)chat.GetTagItem("gen_ai.tool.definitions")!, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Failures_AreTold_ByTheClientAndTheEngine()
    {
        var exported = new ConcurrentBag<Activity>();
        ActivityTraceId trace;
        using (OpenTelemetry.Sdk.CreateTracerProviderBuilder().AddSource(_source, Engine).AddProcessor(new SimpleActivityExportProcessor(new BagExporter(exported))).Build())
        using (var source = new ActivitySource(_source))
        using (var root = source.StartActivity("test"))
        using (var client = _model.Client.AsBuilder().UseOpenTelemetry(sourceName: _source).Build())
        using (var cancellation = new CancellationTokenSource())
        {
            trace = root!.TraceId;
            var endless = new ChatOptions { RawRepresentationFactory = static _ => new ErnieGenerationOptions { Temperature = 0, IgnoreStopTokens = true } };
            await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
            {
                await foreach (var _ in client.GetStreamingResponseAsync("Who are you?", endless, cancellation.Token)) await cancellation.CancelAsync();
            });
        }
        var activities = exported.Where(a => a.TraceId == trace && a.OperationName != "test").ToList();
        Assert.Equal(2, activities.Count);
        Assert.All(activities, static a =>
        {
            Assert.Equal(ActivityStatusCode.Error, a.Status);
            Assert.EndsWith("CanceledException", (string)a.GetTagItem("error.type")!, StringComparison.Ordinal);
        });
    }

    [Fact]
    public async Task Metrics_AreTheClientsAndTheServers()
    {
        var exported = new List<MetricSnapshot>();
        using (var meters = OpenTelemetry.Sdk.CreateMeterProviderBuilder().AddMeter(_source, Engine).AddInMemoryExporter(exported).Build())
        using (var client = _model.Client.AsBuilder().UseFunctionInvocation().UseOpenTelemetry(sourceName: _source).Build())
        {
            await client.GetResponseAsync("How is the weather in Xentadal?", CountedModel.Greedy(_tools.Weather), Token);
            await client.GetStreamingResponseAsync("Who are you?", CountedModel.Greedy(), Token).ToListAsync(Token);
            Assert.True(meters.ForceFlush());
            // The end exports everything once more.
            exported = [.. exported];
        }
        var clients = exported.Where(m => m.MeterName == _source).ToLookup(static m => m.Name);
        Assert.Equal(3, Points(clients["gen_ai.client.operation.duration"]).Sum(static p => p.GetHistogramCount()));
        // One of prompts and one of answers.
        Assert.Equal(6, Points(clients["gen_ai.client.token.usage"]).Sum(static p => p.GetHistogramCount()));
        Assert.Equal(1, Points(clients["gen_ai.client.operation.time_to_first_chunk"]).Sum(static p => p.GetHistogramCount()));
        Assert.True(Points(clients["gen_ai.client.operation.time_per_output_chunk"]).Sum(static p => p.GetHistogramCount()) > 1);

        // The engine's meter belongs to the process, in which other tests may run models too.
        var engines = exported.Where(static m => m.MeterName == Engine).ToLookup(static m => m.Name);
        foreach (var name in new[] { "gen_ai.server.request.duration", "gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token" })
        {
            var points = Points(engines[name]).Where(static p => Tag(p, "gen_ai.request.model") as string == "ernie-tiny-moe").ToList();
            Assert.True(points.Sum(static p => p.GetHistogramCount()) >= 3, name);
            Assert.All(points, static p => Assert.Equal("ernie", Tag(p, "gen_ai.provider.name")));
        }
        foreach (var name in new[] { "ernie.tokens.prompt", "ernie.tokens.generated" }) Assert.True(Points(engines[name]).Sum(static p => p.GetSumLong()) > 0, name);
        Assert.NotEmpty(Points(engines["ernie.kv_cache.usage"]));
    }

    private static int Count(Activity activity, string which) => Convert.ToInt32(activity.GetTagItem($"gen_ai.usage.{which}_tokens"), null);

    private static string[] JsonOrArray(object? value) => value as string[] ?? System.Text.Json.JsonSerializer.Deserialize<string[]>((string)value!)!;

    private static IEnumerable<MetricPoint> Points(IEnumerable<MetricSnapshot> metrics) => metrics.SelectMany(static m => m.MetricPoints);

    private static object? Tag(MetricPoint point, string name)
    {
        foreach (var (key, value) in point.Tags)
        {
            if (key == name) return value;
        }
        return null;
    }

    /// <summary>The in-memory exporter's list is not made for tests that end activities on several threads at once.</summary>
    private sealed class BagExporter(ConcurrentBag<Activity> bag) : BaseExporter<Activity>
    {
        public override ExportResult Export(in Batch<Activity> batch)
        {
            foreach (var activity in batch) bag.Add(activity);
            return ExportResult.Success;
        }
    }
}
