using System.Text.Json;
using System.Text.Json.Nodes;
using Microsoft.Extensions.AI;
using RepoRefactor;
using Samples.Documents;

// A change to a repository that is read as a whole. The model names files, lines and their replacement; the program makes the unified diff, on standard output, which therefore always applies.
//
//   dotnet run --project samples/RepoRefactor                                           the tiny model, a repository that it can read
//   dotnet run --project samples/RepoRefactor -- --repo . --tokens 8192                 the tiny model, a repository that it cannot: the diff applies all the same
//   dotnet run --project samples/RepoRefactor -- --model PATH --repo . --tokens 131072 --task "Rename the class Foo to Bar." > change.diff
//   git apply change.diff

const string Usage = "Usage: RepoRefactor [--model PATH] [--repo FOLDER] [--tokens N] [--task TEXT] [--seed N]";
const string DefaultTask = "Remove code that is never used.";

if (!Arguments.TryParse(args, Usage, ["--model", "--repo", "--tokens", "--task", "--seed"], out var arguments)) return 2;

return await DocumentModel.RunAsync(async stop =>
{
    await using var model = await DocumentModel.LoadAsync(arguments.Model, stop);
    // What is read sets what may be written: a small repository needs no long diff.
    var answerTokens = Math.Clamp(arguments.Tokens / 4, 512, 4096);
    var room = model.Room(arguments.Tokens, answerTokens);
    var isTiny = arguments.Model is null && arguments["--repo"] is null;
    var folder = arguments["--repo"] ?? (isTiny ? TinyRepository.Write(room, model.Count, new Random(arguments.Seed)) : ".");
    var repository = Repository.Read(folder, room, isTiny ? static file => file.Text : Repository.Numbered, model.Count);
    Console.Error.WriteLine($"{repository.Root}: {repository.Files.Count} files, {repository.Files.Sum(static file => file.Lines.Count):N0} lines, {model.Count(repository.Text):N0} tokens{(repository.LeftOut > 0 ? $"; {repository.LeftOut} files left out, --tokens takes more" : "")}");

    List<Edit> edits;
    if (isTiny) edits = await NamedNumbers.EditAsync(repository, model, stop);
    else
    {
        var prompt = $"{repository.Text}\n\nTask: {arguments["--task"] ?? DefaultTask}\nGive the edits as JSON: for each the file, the first and last line to replace, and the lines that replace them.";
        var format = ChatResponseFormat.ForJsonSchema(JsonSerializer.SerializeToElement(EditsSchema.For(repository)));
        edits = EditsSchema.Read(JsonNode.Parse(await model.AskAsync([new ChatMessage(ChatRole.User, prompt)], format, answerTokens, Console.Error, stop))!, repository);
    }
    var diff = UnifiedDiff.Of(edits);
    Console.Out.NewLine = "\n";
    Console.Write(diff);
    if (diff.Length == 0)
    {
        Console.Error.WriteLine("No line changes.");
        return 0;
    }
    var (refuses, message) = await Git.CheckAsync(repository.Root, diff, stop);
    Console.Error.WriteLine(message);
    return refuses ? 1 : 0;
});
