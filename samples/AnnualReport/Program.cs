using System.Text.Json;
using AnnualReport;
using Microsoft.Extensions.AI;
using Samples.Documents;

// Questions about a long report. Each answer is followed by the clauses that it rests on, and these exist: a grammar leaves the model no others to name.
//
//   dotnet run --project samples/AnnualReport                                             the tiny model, a report that it can read
//   dotnet run --project samples/AnnualReport -- --document report --tokens 8192          the tiny model, a report that it cannot: citations exist all the same
//   dotnet run --project samples/AnnualReport -- --model PATH --tokens 131072             a checkpoint or an exported model
//   dotnet run --project samples/AnnualReport -- --model PATH --document report.md --question "What was paid for Nordvik?"

const string Usage = "Usage: AnnualReport [--model PATH] [--document tiny|report|FILE] [--tokens N] [--question TEXT] [--seed N]";
const int AnswerTokens = 256;

if (!Arguments.TryParse(args, Usage, ["--model", "--document", "--tokens", "--question", "--seed"], out var arguments)) return 2;
if (arguments["--document"] is { } own and not ("tiny" or "report") && arguments["--question"] is null)
{
    Console.Error.WriteLine($"Ask something about {own}: --question TEXT.");
    return 2;
}

return await DocumentModel.RunAsync(async stop =>
{
    await using var model = await DocumentModel.LoadAsync(arguments.Model, stop);
    var random = new Random(arguments.Seed);
    var room = model.Room(arguments.Tokens, 2 * AnswerTokens);
    var report = (arguments["--document"] ?? (arguments.Model is null ? "tiny" : "report")) switch
    {
        "tiny" => Report.ForTinyModel(room, model.Count, random),
        "report" => GeneratedReport.Create(room, model.Count, random),
        var file => Report.FromFile(file, room, model.Count),
    };
    if (arguments["--question"] is { } asked) report = report with { Questions = [new Question(asked)] };
    Console.Error.WriteLine($"{report.Clauses.Count:N0} clauses, {model.Count(report.Text):N0} tokens");

    var format = ChatResponseFormat.ForJsonSchema(JsonSerializer.SerializeToElement(report.CitationSchema()));
    var right = 0;
    foreach (var question in report.Questions)
    {
        Console.WriteLine($"\nQ: {question.Text}");
        Console.Write("A: ");
        // Each question is a conversation of its own. All begin with the report, which is computed for the first one only.
        List<ChatMessage> conversation = [new(ChatRole.User, $"{report.Text}\n\n{question.Text}")];
        var answer = await model.AskAsync(conversation, null, AnswerTokens, Console.Out, stop);

        conversation.Add(new(ChatRole.Assistant, answer));
        conversation.Add(new(ChatRole.User, question.Citation));
        var citation = await model.AskAsync(conversation, format, AnswerTokens, TextWriter.Null, stop);
        foreach (var clause in report.Cited(citation)) Console.WriteLine($"   [{clause.Id}] {clause.Text}");

        if (question.Clause is null) continue;
        if (question.Answer == answer.Trim()) right++;
        Console.WriteLine($"   Written in the report for this question: [{question.Clause}]{(question.Answer is null ? "" : question.Answer == answer.Trim() ? ", right" : $", wrong: {question.Answer}")}");
    }
    if (report.Questions.Any(static question => question.Answer is not null)) Console.WriteLine($"\n{right} of {report.Questions.Count} answers are right.");
    return 0;
});
