using System.Text.Json.Nodes;

namespace Samples.Documents;

/// <summary>A clause as the tiny model has learnt to read them, with a question about it and what it answers if it reads well.</summary>
/// <param name="Topic">What the clause is about; no two clauses of one document share it.</param>
internal sealed record TinyClause(int Number, string Topic, string Text, string Question, string Answer, JsonObject Extract)
{
    private static readonly string[] s_fees = ["late fee", "storage fee", "audit fee", "service fee", "repair fee", "licence fee", "transport fee", "cleaning fee", "training fee", "packing fee"];
    private static readonly string[] s_terms = ["lease", "warranty", "licence", "project", "insurance", "contract", "guarantee", "loan"];
    private static readonly string[] s_periods = ["notice", "payment", "trial", "grace", "return", "review", "waiting", "delivery"];
    private static readonly string[] s_goods = ["pumps", "valves", "batteries", "tyres", "books", "chairs", "sensors", "pipes"];
    private static readonly string[] s_companies = ["Northwind", "Bridal Ltd", "Roswell Labs", "Halteberg Labs", "Irwind", "Fenport Labs"];
    private static readonly string[] s_places = ["Oslo", "Madrid", "Lisbon", "Leeds", "Warsaw", "Tokyo"];
    private static readonly string[] s_units = ["yuan", "dollars", "euros", "pounds"];
    private static readonly string[] s_months = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
    private static readonly string[] s_filler =
    [
        "The board met and took notes.", "Each page carries a stamp.", "All terms have their usual meaning.", "The team reviewed the plan twice.", "See the notes for details.",
        "A signed copy is stored in the office.", "The work was done with care.", "The auditors had no further remarks.", "The parties have read this section.", "Questions may be sent by letter.",
    ];

    /// <summary>Topics in an order of chance, each kind of clause among the first four.</summary>
    public static string[] Topics(Random random)
    {
        string[][] kinds = [[.. s_fees], [.. s_terms], [.. s_periods.Select(static period => $"{period} period")], [.. s_goods]];
        foreach (var kind in kinds) random.Shuffle(kind);
        return [.. Enumerable.Range(0, kinds.Max(static kind => kind.Length)).SelectMany(i => kinds.Where(kind => i < kind.Length).Select(kind => kind[i]))];
    }

    public static TinyClause Create(int number, string topic, Random random)
    {
        if (s_terms.Contains(topic))
        {
            var end = $"{random.Next(1, 29)} {s_months[random.Next(12)]} {random.Next(2021, 2050)}";
            return New($"The {topic} ends on {end}.", $"When does the {topic} in clause {number} end?", $"The {topic} in clause {number} ends on {end}.", new JsonObject { ["clause"] = number, ["term"] = topic, ["end"] = end });
        }
        if (topic.EndsWith(" period", StringComparison.Ordinal))
        {
            var days = random.Next(5, 120);
            return New($"The {topic} is {days} days.", $"How long is the {topic} in clause {number}?", $"The {topic} in clause {number} is {days} days.", new JsonObject { ["clause"] = number, ["period"] = topic, ["days"] = days });
        }
        if (s_goods.Contains(topic))
        {
            var (company, quantity, place) = (s_companies[random.Next(s_companies.Length)], random.Next(20, 9999), s_places[random.Next(s_places.Length)]);
            return New($"{company} shall deliver {quantity:N0} {topic} to {place}.", $"How many {topic} shall be delivered under clause {number}?", $"Under clause {number}, {company} shall deliver {quantity:N0} {topic} to {place}.",
                new JsonObject { ["clause"] = number, ["company"] = company, ["quantity"] = quantity, ["goods"] = topic, ["place"] = place });
        }
        var (amount, unit, per) = (random.Next(20, 9999), s_units[random.Next(4)], new[] { "day", "week", "month", "year" }[random.Next(4)]);
        return New($"The {topic} is {amount:N0} {unit} per {per}.", $"What is the {topic} in clause {number}?", $"The {topic} in clause {number} is {amount:N0} {unit} per {per}.",
            new JsonObject { ["clause"] = number, ["item"] = topic, ["amount"] = amount, ["unit"] = unit, ["period"] = per });

        TinyClause New(string text, string question, string answer, JsonObject extract) => new(number, topic, $"Clause {number}. {text}", question, answer, extract);
    }

    /// <summary>A line that says nothing.</summary>
    public static string Filler(Random random) => string.Join(' ', Enumerable.Range(0, random.Next(1, 5)).Select(_ => s_filler[random.Next(s_filler.Length)]));
}
