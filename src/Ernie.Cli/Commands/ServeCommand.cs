using System.CommandLine;
using System.Net.Sockets;
using Ernie.Cli.Serving;
using Ernie.Sdk;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie serve</c>: a model over HTTP.</summary>
internal static class ServeCommand
{
    /// <summary>Instead of <c>--api-key</c>, which other users of the machine can read in the list of processes.</summary>
    public const string ApiKeyVariable = "ERNIE_API_KEY";

    public static Command Create(CommandStreams streams)
    {
        var urls = new Option<string[]>("--urls") { Description = "Addresses to listen at; port 0 takes a free one. Other machines reach a loopback address (127.0.0.1) never, 0.0.0.0 always.", DefaultValueFactory = static _ => ["http://127.0.0.1:8000"], HelpName = "URL", AllowMultipleArgumentsPerToken = true };
        urls.Validators.Add(static result =>
        {
            foreach (var token in result.Tokens)
            {
                if (!Uri.TryCreate(token.Value, UriKind.Absolute, out var url) || url.Scheme != Uri.UriSchemeHttp || url.PathAndQuery != "/") result.AddError($"--urls takes addresses such as http://127.0.0.1:8000; it was '{token.Value}'.");
            }
        });
        var apiKey = new Option<string?>("--api-key") { Description = $"What clients must send as bearer token. [default: the variable {ApiKeyVariable}; none without it]", HelpName = "KEY" };
        var requests = new Option<int>("--max-requests") { Description = "Requests computed together.", DefaultValueFactory = static _ => 16, HelpName = "N" }.InRange(1, 4096);
        var queue = new Option<int>("--max-queue") { Description = "Requests that may wait beside those that are computed; one more gets status 429.", DefaultValueFactory = static _ => 64, HelpName = "N" }.InRange(0, int.MaxValue);
        var template = CommonOptions.Template();
        var context = CommonOptions.Context();
        var command = new DocumentedCommand("serve",
            "Serves a model over HTTP: OpenAI's API and a chat page.",
            "POST /v1/chat/completions, /v1/completions and /tokenize, GET /v1/models, /health, /metrics (Prometheus) and / (the chat page, which needs no other server). Ctrl+C ends.",
            "ernie serve samples/ernie-tiny-moe", "ernie serve model --urls http://127.0.0.1:9000 --max-requests 4",
            """curl http://127.0.0.1:8000/v1/chat/completions -H "Content-Type: application/json" -d '{"messages": [{"role": "user", "content": "Who are you?"}]}'""");
        var model = ModelOptions.AddTo(command, defaultKv: "bf16", defaultAttention: "plas", first: [urls, apiKey, template, context, requests, queue]);
        command.SetAction(async (result, cancellationToken) =>
        {
            var key = result.GetValue(apiKey) ?? Environment.GetEnvironmentVariable(ApiKeyVariable);
            if (string.IsNullOrEmpty(key)) key = null;
            var addresses = result.GetValue(urls)!;
            if (key is null && !addresses.All(ErnieServer.IsLoopback)) await streams.Error.WriteLineAsync("ernie: warning: other machines may use this server, and there is no --api-key.").ConfigureAwait(false);
            using var loggers = model.Logger(result, streams);
            await using var loaded = await model.LoadAsync(result, streams, result.GetValue(requests), cancellationToken, configure: options =>
            {
                options.MaxQueuedRequests = result.GetValue(queue);
                options.ContextLength = result.GetValue(context);
                options.ChatTemplate = CommonOptions.TemplateOf(result.GetValue(template)!);
            }).ConfigureAwait(false);
            await using var server = await StartAsync().ConfigureAwait(false);
            foreach (var url in server.Urls) await streams.Out.WriteLineAsync($"{loaded.ModelId}: chat at {url}, OpenAI's API at {url}/v1").ConfigureAwait(false);
            await streams.Out.FlushAsync(cancellationToken).ConfigureAwait(false);
            // Ending is what Ctrl+C is for here.
            await Task.Delay(Timeout.Infinite, cancellationToken).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            return ExitCode.Success;

            async Task<ErnieServer> StartAsync()
            {
                try
                {
                    return await ErnieServer.StartAsync(loaded, addresses, key, loggers, cancellationToken).ConfigureAwait(false);
                }
                catch (IOException e) when (e.InnerException is Microsoft.AspNetCore.Connections.AddressInUseException)
                {
                    throw new IOException($"{e.Message.TrimEnd('.')}. Another program listens there, perhaps another 'ernie serve'. --urls http://127.0.0.1:0 takes a free port.", e);
                }
                catch (Exception e) when (e is IOException or SocketException)
                {
                    var cure = e is SocketException { SocketErrorCode: SocketError.AddressNotAvailable } ? "--urls takes addresses of this machine, or http://0.0.0.0:8000 for all of them." : "Name another address or port with --urls.";
                    throw new IOException($"The server cannot listen at {string.Join(" or ", addresses)}: {e.Message.TrimEnd('.')}. {cure}", e);
                }
            }
        });
        return command;
    }
}
