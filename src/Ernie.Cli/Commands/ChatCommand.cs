using System.CommandLine;
using Ernie.Cli.Chatting;
using Microsoft.Extensions.AI;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie chat</c>: a conversation at the terminal.</summary>
internal static class ChatCommand
{
    public static Command Create(CommandStreams streams)
    {
        var system = new Option<string?>("--system") { Description = "System prompt.", HelpName = "TEXT" };
        var temperature = new Option<float?>("--temperature") { Description = "0 always takes the most likely token. [default: what the model's generation_config.json says]", HelpName = "T" };
        temperature.Validators.Add(static result =>
        {
            if (result.Tokens.Count == 1 && float.TryParse(result.Tokens[0].Value, System.Globalization.CultureInfo.InvariantCulture, out var value) && !(value is >= 0 and <= 100)) result.AddError("--temperature must lie between 0 and 100.");
        });
        var maxTokens = new Option<int?>("--max-tokens") { Description = "Most tokens of an answer. [default: what the context leaves]", HelpName = "N" };
        maxTokens.Validators.Add(static result =>
        {
            if (result.Tokens.Count == 1 && int.TryParse(result.Tokens[0].Value, out var value) && value < 1) result.AddError("--max-tokens must be at least 1.");
        });
        var context = CommonOptions.Context();
        var template = CommonOptions.Template();
        var command = new DocumentedCommand("chat",
            "Chats at the terminal.",
            "Answers go to standard output; a line of token counts and speed after each, and everything else, to standard error. Reasoning is shown before its answer on a terminal; where standard output\nis none, it goes to standard error too. From a pipe, every line is a message, and an error ends with exit code 1.\nIn the chat, /help lists commands. Ctrl+C stops the answer that is being written, otherwise the program.",
            "ernie chat samples/ernie-tiny-moe", "ernie chat samples/ernie-tiny-moe --template thinking", """ernie chat models/0.3b --system "Answer in one sentence." --temperature 0.3""", """echo "Who are you?" | ernie chat samples/ernie-tiny-moe --temperature 0 2> /dev/null""");
        var model = ModelOptions.AddTo(command, defaultKv: "bf16", first: [system, temperature, maxTokens, context, template]);
        command.SetAction(async (result, cancellationToken) =>
        {
            var options = new ChatOptions { Temperature = result.GetValue(temperature), MaxOutputTokens = result.GetValue(maxTokens) };
            var loaded = await model.LoadAsync(result, streams, maxConcurrentRequests: 1, cancellationToken, configure: o =>
            {
                o.ContextLength = result.GetValue(context);
                o.ChatTemplate = CommonOptions.TemplateOf(result.GetValue(template)!);
            }).ConfigureAwait(false);
            await using (loaded.ConfigureAwait(false)) await new ChatSession(loaded, options, streams, result.GetValue(system)).RunAsync(cancellationToken).ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }
}
