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
    if (context.Exception is { } failure && context.ProblemDetails.Status < StatusCodes.Status500InternalServerError) context.ProblemDetails.Detail = failure.Message;
});

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

// The whole answer at once.
app.MapGet("/ask", static async (string question, IChatClient client, CancellationToken cancel) =>
    new Answer((await client.GetResponseAsync(question, cancellationToken: cancel)).Text));

// A conversation; its answer comes as server-sent events while it is written. A client that goes away cancels it.
app.MapPost("/chat", static async (Conversation conversation, IChatClient client, CancellationToken cancel) =>
    TypedResults.ServerSentEvents(await AnswerEvents.BeginAsync(client, conversation, cancel)));

app.Run();
