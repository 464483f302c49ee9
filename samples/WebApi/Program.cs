using System.Text.Json;
using System.Text.Json.Serialization;
using Ernie.Sdk;
using Microsoft.Extensions.AI;
using OpenTelemetry.Metrics;
using OpenTelemetry.Resources;
using OpenTelemetry.Trace;
using WebApi;

// One model behind a web API: streaming, health, telemetry.
//
//   dotnet run --project samples/WebApi                                   the tiny model
//   dotnet run --project samples/WebApi -- --Ernie:ModelPath=PATH         any other

var builder = WebApplication.CreateBuilder(args);

// The section "Ernie" of the configuration says how the model is run. It is loaded in the background; requests wait for it.
builder.Services.AddErnieChatClient(static options =>
{
    if (options.ModelPath.Length == 0) options.ModelPath = Path.Combine(AppContext.BaseDirectory, "ernie-tiny-moe");
});
builder.Services.AddHealthChecks().AddErnieHealthCheck();
builder.Services.AddOpenTelemetry()
    .ConfigureResource(static resource => resource.AddService("WebApi"))
    // The request's own activity is not recorded, for its address holds the question; a sampler that follows the parent would leave the model's out too.
    .WithTracing(static traces => traces.AddSource("Ernie.Sdk").SetSampler(new AlwaysOnSampler()).AddConsoleExporter())
    .WithMetrics(static metrics => metrics.AddMeter("Ernie.Sdk").AddConsoleExporter());
builder.Services.AddProblemDetails(static problems => problems.CustomizeProblemDetails = static context =>
{
    // Messages of the library name what is wrong and what helps. Those of other faults are the log's.
    if (context.Exception is ErnieQueueFullException) context.HttpContext.Response.Headers.RetryAfter = "1";
    // What is wrong with JSON is told by the reader's own message, one below.
    if (context.Exception is { } failure && context.ProblemDetails.Status < StatusCodes.Status500InternalServerError) context.ProblemDetails.Detail = failure.InnerException is JsonException json ? $"The body cannot be read: {json.Message}" : failure.Message;
});
// Otherwise only Development throws for a wrong request, and elsewhere its status comes without a word. A field that nobody reads is a mistake too.
builder.Services.Configure<RouteHandlerOptions>(static routes => routes.ThrowOnBadRequest = true);
builder.Services.ConfigureHttpJsonOptions(static json => json.SerializerOptions.UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow);

var app = builder.Build();
app.UseExceptionHandler(new ExceptionHandlerOptions
{
    StatusCodeSelector = static failure => failure switch
    {
        ErnieQueueFullException => StatusCodes.Status429TooManyRequests,
        ArgumentException or NotSupportedException => StatusCodes.Status400BadRequest,
        BadHttpRequestException bad => bad.StatusCode,
        _ => StatusCodes.Status500InternalServerError,
    },
});
app.UseStatusCodePages();
app.MapHealthChecks("/health");
app.MapGet("/", static () => "POST /chat with {\"messages\": [{\"role\": \"user\", \"text\": \"Who are you?\"}]} streams an answer; GET /ask?question=... gives it whole; GET /health says whether the model is ready.\n");

// The whole answer at once.
app.MapGet("/ask", static async (string question, IChatClient client, CancellationToken cancel) =>
    new Answer((await client.GetResponseAsync(question, cancellationToken: cancel)).Text));

// A conversation; its answer comes as server-sent events while it is written. A client that goes away cancels it.
app.MapPost("/chat", static async (Conversation conversation, IChatClient client, CancellationToken cancel) =>
    TypedResults.ServerSentEvents(await AnswerEvents.BeginAsync(client, conversation, cancel)));

app.Run();
