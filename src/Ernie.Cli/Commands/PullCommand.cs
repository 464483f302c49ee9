using System.CommandLine;
using Ernie.Cli.Pulling;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie pull</c>: brings a checkpoint into a folder.</summary>
internal static class PullCommand
{
    public static Command Create(CommandStreams streams)
    {
        var source = new Argument<string>("SOURCE") { Description = "OWNER/NAME on a hub, an http(s) address of a folder with a checkpoint's files, or a folder on this machine." };
        var folder = new Argument<string?>("DIR") { Description = "Folder to write to. [default: the last part of SOURCE, in the current folder]", Arity = ArgumentArity.ZeroOrOne };
        var from = new Option<string>("--from") { Description = "The hub that OWNER/NAME is on.", DefaultValueFactory = static _ => "huggingface" }.AcceptOnlyFromAmong("huggingface", "modelscope");
        var baseUrl = new Option<string?>("--base-url") { Description = "Another server that answers as the hub does, such as a mirror.", HelpName = "URL" };
        var revision = new Option<string?>("--revision") { Description = "Branch, tag or commit. [default: main; on ModelScope master]", HelpName = "NAME" };
        var token = new Option<string?>("--token") { Description = $"Access token for private repositories. Without it {HuggingFace.TokenVariable}, or {ModelScope.TokenVariable}, is used with the hub itself.", HelpName = "TOKEN" };
        var include = Patterns("--include", "Only files that match, in place of what a checkpoint needs; * and ? stand for anything. May be repeated.");
        var exclude = Patterns("--exclude", "No files that match. May be repeated.");
        var parallel = new Option<int>("--parallel") { Description = "Files downloaded together.", DefaultValueFactory = static _ => 4, HelpName = "N" }.InRange(1, 64);
        var retries = new Option<int>("--retries") { Description = "Attempts after one that brought nothing; those that bring something are not counted.", DefaultValueFactory = static _ => 5, HelpName = "N" }.InRange(0, 100);
        var command = new DocumentedCommand("pull",
            "Downloads a checkpoint.",
            "Takes configuration, tokenizer, chat template and the safetensors files that the index names. Files that are there and right are not downloaded again, parts of files are completed.\nA file gets its name when its length, and the hash that the hub gives, are right. The token goes to the hub only, never to a server that it redirects to.",
            "ernie pull baidu/ERNIE-4.5-0.3B-PT", "ernie pull PaddlePaddle/ERNIE-4.5-21B-A3B-PT models/21b --from modelscope --parallel 8", "ernie pull https://files.example.org/ernie/ models/ernie", "ernie pull /mnt/usb/ERNIE-4.5-0.3B-PT models/0.3b --exclude '*.md'")
        { source, folder, from, baseUrl, revision, token, include, exclude, parallel, retries };
        command.SetAction(async (result, cancellationToken) =>
        {
            var name = result.GetValue(source)!;
            // What looks like a path of this machine, and is none, is more likely mistyped than a repository.
            if (!IsExplicit(from) && !IsExplicit(baseUrl) && !Directory.Exists(name) && !name.Contains("://", StringComparison.Ordinal) && Path.GetDirectoryName(name) is { Length: > 0 } parent && Directory.Exists(parent))
                throw new DirectoryNotFoundException($"There is no folder {name}, only a folder {parent}. If a repository of that name is meant, say on which hub: --from huggingface or --from modelscope.");
            using var repository = Repository(name, result.GetValue(from)!, result.GetValue(baseUrl), result.GetValue(revision), result.GetValue(token));
            var target = result.GetValue(folder) ?? DefaultFolder(name);
            if (repository is LocalFolder && Path.TrimEndingDirectorySeparator(Path.GetFullPath(target)) == Path.TrimEndingDirectorySeparator(Path.GetFullPath(name))) throw new ArgumentException($"{target} is where the files already are. Name another folder.");
            PullResult pulled;
            using (var line = new ProgressLine(streams, "pull"))
            {
                var selection = new FileSelection(result.GetValue(include) ?? [], result.GetValue(exclude) ?? []);
                pulled = await new Pull(repository, target, selection, result.GetValue(parallel), new RetryPolicy(result.GetValue(retries)), line).RunAsync(cancellationToken).ConfigureAwait(false);
            }
            await streams.Out.WriteLineAsync($"{target}: {pulled.Files} files, {Size.Text(pulled.Bytes)}; {pulled.Downloaded} downloaded, {pulled.Files - pulled.Downloaded} were there. {Checked(pulled)}").ConfigureAwait(false);
            return ExitCode.Success;

            bool IsExplicit(Option option) => result.GetResult(option) is { Implicit: false };
        });
        return command;
    }

    private static string Checked(PullResult pulled) =>
        pulled.Checked == pulled.Files ? "All have the hashes that the source gives." : pulled.Checked == 0 ? "The source gives no hashes, so contents could not be checked."
        : $"{pulled.Checked} have the hashes that the source gives; for {pulled.Files - pulled.Checked} it gives none.";

    private static IRepository Repository(string source, string from, string? baseUrl, string? revision, string? token)
    {
        if (Directory.Exists(source)) return new LocalFolder(source);
        if (source.Contains("://", StringComparison.Ordinal)) return new WebFolder(Address(source), token);
        var parts = source.Split('/');
        if (parts.Length != 2 || !parts.All(static p => p.Length is > 0 and <= 96 && p.All(static c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.') && p.Trim('.').Length > 0))
            throw new ArgumentException($"'{source}' is no folder, no http(s) address and no OWNER/NAME. An example: baidu/ERNIE-4.5-0.3B-PT");
        var server = baseUrl is null ? null : Address(baseUrl.TrimEnd('/') + "/");
        if (from == "modelscope") return new ModelScope(server ?? ModelScope.Server, source, revision ?? "master", Token(ModelScope.TokenVariable));
        return new HuggingFace(server ?? HuggingFace.Server, source, revision ?? "main", Token(HuggingFace.TokenVariable));

        // A token of the environment is for the hub; another server gets one only when it is given on purpose.
        string? Token(string variable) => token ?? (server is null && Environment.GetEnvironmentVariable(variable) is { Length: > 0 } value ? value : null);
    }

    private static Uri Address(string text) => Uri.TryCreate(text, UriKind.Absolute, out var address) && (address.Scheme == Uri.UriSchemeHttps || address.Scheme == Uri.UriSchemeHttp)
        ? address : throw new ArgumentException($"'{text}' is no http or https address.");

    private static string DefaultFolder(string source)
    {
        var name = source.TrimEnd('/', '\\').Split('/', '\\')[^1];
        return name.Length > 0 && name.Trim('.').Length > 0 && name.IndexOfAny(['?', '#', ':', '%']) < 0 ? name : throw new ArgumentException($"'{source}' gives no name for the folder. Name DIR.");
    }

    private static Option<string[]> Patterns(string name, string description) => new(name) { Description = description, HelpName = "PATTERN", Arity = ArgumentArity.OneOrMore, AllowMultipleArgumentsPerToken = false };
}
