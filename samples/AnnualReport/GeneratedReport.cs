using Samples.Documents;

namespace AnnualReport;

/// <summary>The annual report of a company that does not exist, as long as is asked for. All names and figures are invented.</summary>
internal static class GeneratedReport
{
    private const string Company = "Hallmar Process Systems plc";

    private static readonly string[] s_chapters =
    [
        "Letter to shareholders", "Strategy and business model", "Review of operations", "Financial review", "Principal risks", "Corporate governance", "Remuneration", "Sustainability",
        "Notes to the consolidated accounts", "Subsidiaries and leases",
    ];

    private static readonly string[] s_cities =
    [
        "Rostock", "Trondheim", "Gdynia", "Antwerp", "Bilbao", "Porto", "Leeds", "Cork", "Aarhus", "Turku", "Tallinn", "Rotterdam", "Genoa", "Izmir", "Constanta", "Durban", "Santos", "Veracruz", "Houston",
        "Savannah", "Halifax", "Busan", "Osaka", "Kaohsiung", "Qingdao", "Da Nang", "Penang", "Chennai", "Dammam", "Fremantle",
    ];

    private static readonly string[] s_products = ["centrifugal pumps", "dosing units", "heat exchangers", "membrane filters", "control valves", "compressor skids", "level sensors", "mixing vessels"];
    private static readonly string[] s_industries = ["municipal water", "food processing", "battery recycling", "pulp and paper", "district heating", "specialty chemicals", "offshore wind", "brewing"];
    private static readonly string[] s_names = ["A. Lindqvist", "M. Okafor", "R. Castellano", "J. Whitcombe", "S. Ramanathan", "H. Brandt", "C. Moreau", "T. Nakagawa", "L. Fitzgerald", "E. Sorensen"];
    private static readonly string[] s_risks =
    [
        "supply of castings", "exchange rates", "energy prices", "warranty claims", "cyber security", "loss of key engineers", "export controls", "project execution", "pension funding", "product liability",
    ];

    // What the questions ask about: chapter, text, question.
    private static readonly (int Chapter, string Text, string Question)[] s_facts =
    [
        (2, "On 14 May the Group completed the acquisition of Nordvik Dosering AS for a cash consideration of GBP 41.6 million, of which GBP 6.2 million is deferred until audited accounts for the following year are available.",
            "How much did the Group pay for Nordvik Dosering AS?"),
        (3, "The revolving credit facility of GBP 180 million, which replaced the facility of GBP 120 million, matures in June 2030 and bears interest at 1.35 per cent above SONIA; its only financial covenant limits net debt to 3.0 times adjusted EBITDA.",
            "When does the revolving credit facility mature, and what is its covenant?"),
        (4, "A single customer, the water authority of the Port of Dammam, accounted for 11.8 per cent of revenue; its framework agreement ends in September 2027 and contains no obligation to renew.",
            "On which customer does the Group depend most, and when does its agreement end?"),
        (6, "The Chief Executive's bonus was reduced by 15 per cent at the Committee's discretion because of the fatal accident at the Veracruz works in February.",
            "Why was the Chief Executive's bonus reduced?"),
        (8, "The Group is defending a claim of USD 27.4 million brought by Tidewater Desalination LLC for alleged late commissioning; on the advice of counsel a provision of USD 3.1 million has been made.",
            "What provision was made for the claim of Tidewater Desalination?"),
    ];

    public static Report Create(int room, Func<string, int> count, Random random)
    {
        var chapters = s_chapters.Select(static _ => new List<string>()).ToArray();
        var used = count($"{Company}\nAnnual report and accounts 2025\n") + s_chapters.Sum(title => count($"\n\n10. {title}\n\n"));
        // A clause's number takes tokens too; its final form is not known before all are there.
        bool Add(int chapter, string text)
        {
            if ((used += count($"[{chapter + 1}.100] {text}\n\n")) > room) return false;
            chapters[chapter].Add(text);
            return true;
        }

        foreach (var (chapter, text, _) in s_facts) Add(chapter, text);
        for (var i = 0; Add(i % s_chapters.Length, Paragraph(i % s_chapters.Length, i / s_chapters.Length, random)); i++)
        {
        }
        // What is asked about stands anywhere in its chapter.
        foreach (var chapter in chapters) random.Shuffle(System.Runtime.InteropServices.CollectionsMarshal.AsSpan(chapter));

        var clauses = new List<Clause>();
        var lines = new List<string> { Company, "Annual report and accounts 2025" };
        foreach (var (chapter, title) in s_chapters.Index().Where(entry => chapters[entry.Index].Count > 0))
        {
            lines.Add($"\n{chapter + 1}. {title}\n");
            foreach (var (i, text) in chapters[chapter].Index())
            {
                clauses.Add(new Clause($"{chapter + 1}.{i + 1}", text));
                lines.Add($"[{clauses[^1].Id}] {text}\n");
            }
        }
        var questions = from fact in s_facts
                        let clause = clauses.Find(clause => clause.Text == fact.Text)
                        where clause is not null
                        select new Question(fact.Question, clause.Id);
        return new Report(string.Join('\n', lines), clauses, [.. questions]);
    }

    /// <summary>The n-th paragraph of a chapter. Figures are drawn; what it is about goes round, so that no two paragraphs speak of the same thing.</summary>
    private static string Paragraph(int chapter, int n, Random random)
    {
        string Of(string[] words, int step = 1) => words[n / step % words.Length];
        string Any(string[] words) => words[random.Next(words.Length)];
        string Millions() => $"GBP {random.Next(8, 9400) / 10.0:F1} million";
        string Percent() => $"{random.Next(3, 280) / 10.0:F1} per cent";
        var year = 2025 - n / 16 % 6;
        var product = Of(s_products);
        var industry = Of(s_industries, 8);
        var city = Of(s_cities);
        return (chapter, n % 3) switch
        {
            (0, 0) => $"Demand from {industry} customers for {product} was {Any(["stronger", "weaker", "steadier"])} than we expected a year ago. Orders of {Millions()} compare with {Millions()} in the previous year, and I thank our colleagues in {city} for the way in which they handled {Any(["the move to the new works", "two large deliveries in one quarter", "a long stoppage at a supplier"])}.",
            (0, 1) => $"I visited {city} in {Any(["March", "April", "October", "November"])} and was shown the {Any(["third assembly line", "test rig", "apprentice workshop", "spare parts store"])} for {product}. The investment of {Millions()} was approved in {year} and is expected to return {Percent()} a year.",
            (0, _) => $"Shareholders have asked about {industry}. The Board's view is unchanged: margins of {Percent()} on {product} do not justify further acquisitions there, while service contracts, which grew by {Percent()}, do.",
            (1, 0) => $"In {industry} the Group sells {product} together with monitoring and service. Installed units within reach of {city} number {random.Next(90, 4200):N0}; {Percent()} of them are under a service contract, against a target of {Percent()}.",
            (1, 1) => $"The development programme for {product} continued with expenditure of {Millions()}. The prototype tested at {city} reduces energy use by {Percent()} under the conditions of {industry}, and {random.Next(1, 9)} patent applications were filed.",
            (1, _) => $"We compete with regional makers of {product} on delivery time rather than price. The average time from order to dispatch at {city} was {random.Next(12, 140)} days ({year}: {random.Next(12, 140)} days).",
            (2, 0) => $"{city}: revenue from {product} was {Millions()} ({year}: {Millions()}), an operating margin of {Percent()}. {random.Next(20, 900):N0} people were employed at the year end, {random.Next(1, 60)} of them apprentices.",
            (2, 1) => $"The order for {random.Next(4, 260)} {product} for a {industry} plant near {city} was delivered in {Any(["the first", "the second", "the third", "the fourth"])} quarter. Penalties for delay of {random.Next(20, 900):N0} thousand pounds were {Any(["waived", "agreed", "disputed"])}.",
            (2, _) => $"Capacity for {product} at {city} was used to {random.Next(51, 99)} per cent. A second shift {Any(["was introduced", "ended", "is planned"])} in {Any(["January", "June", "September"])}, and unplanned downtime fell to {random.Next(2, 90)} hours.",
            (3, 0) => $"Revenue from {industry} customers was {Millions()}, {Any(["an increase", "a decrease"])} of {Percent()} at constant exchange rates. Of the change, {Percent()} is due to volume, the remainder to prices and mix of {product}.",
            (3, 1) => $"Working capital tied up in {product} was {Millions()}, or {random.Next(31, 120)} days of sales ({year}: {random.Next(31, 120)} days). Inventories at {city} include {Millions()} of castings bought ahead of a price increase.",
            (3, _) => $"Capital expenditure at {city} amounted to {Millions()}, of which {Millions()} was committed but not spent at the balance sheet date. Depreciation of the machines for {product} is charged over {random.Next(5, 20)} years.",
            (4, 0) => $"Risk: {Of(s_risks)}, {city}. Exposure is estimated at {Millions()} over {random.Next(1, 6)} years. The likelihood is considered {Any(["low", "moderate", "high"])} and {Any(["unchanged", "lower than last year", "higher than last year"])}; {Any(s_names)} is responsible for mitigation.",
            (4, 1) => $"A change of {Percent()} in the price of the components of {product} would change operating profit by {Millions()} before mitigation. Contracts covering {random.Next(20, 95)} per cent of next year's needs at {city} have fixed prices.",
            (4, _) => $"Insurance for {city} covers damage up to {Millions()} with a deductible of {random.Next(50, 900):N0} thousand pounds, and interruption of business for {random.Next(6, 24)} months.",
            (5, 0) => $"The {Any(["Audit", "Nomination", "Risk", "Technology"])} Committee met {random.Next(3, 9)} times. At its meeting in {Any(["February", "May", "August", "December"])} it discussed {Of(s_risks)} at {city} and asked {Any(s_names)} for a report within {random.Next(2, 12)} weeks.",
            (5, 1) => $"{Of(s_names)} declared an interest in a supplier of {product} near {city} and took no part in decisions concerning it. The transactions, {random.Next(20, 900):N0} thousand pounds in total, were made on market terms.",
            (5, _) => $"The internal audit of {city} found {random.Next(1, 14)} matters, none of them critical; {random.Next(40, 100)} per cent were closed within the agreed time. The next audit is due in {year + 3}.",
            (6, 0) => $"{Of(s_names)} received a salary of {random.Next(180, 720):N0} thousand pounds, a bonus of {random.Next(20, 110)} per cent of salary, and shares worth {random.Next(40, 900):N0} thousand pounds that vest in {year + 3} if the return on capital exceeds {Percent()}.",
            (6, 1) => $"Managers of the works at {city} are paid a bonus for safety ({random.Next(10, 40)} per cent), deliveries of {product} on time ({random.Next(10, 40)} per cent) and cash. The average outcome was {random.Next(31, 98)} per cent of the maximum.",
            (6, _) => $"The Committee compared pay in {city} with that of {random.Next(5, 30)} employers of similar size. The lowest hourly rate was raised by {Percent()} with effect from {Any(["1 January", "1 April", "1 July"])}.",
            (7, 0) => $"Emissions of the works at {city} were {random.Next(400, 98_000):N0} tonnes of carbon dioxide equivalent ({year}: {random.Next(400, 98_000):N0} tonnes). {Percent()} of the electricity came from renewable sources.",
            (7, 1) => $"There were {random.Next(0, 14)} accidents with lost time at {city}, {random.Next(1, 60) / 10.0:F1} for each million hours worked. Guarding of the machines for {product} was improved at a cost of {random.Next(20, 900):N0} thousand pounds.",
            (7, _) => $"Water drawn at {city} fell to {random.Next(3, 400):N0} thousand cubic metres. Customers in {industry} saved an estimated {random.Next(20, 9000):N0} thousand cubic metres by using our {product}.",
            (8, 0) => $"Goodwill allocated to the cash-generating unit {city} is {Millions()}. Value in use assumes growth of {Percent()} beyond {year + 5} and a discount rate before tax of {Percent()}; an increase of one percentage point would {Any(["not lead", "lead"])} to an impairment.",
            (8, 1) => $"Revenue from long-term contracts for {product} in {industry} is recognised over time. At the balance sheet date {Millions()} of the transaction price was allocated to obligations not yet performed, of which {Percent()} will be recognised after {year + 2}.",
            (8, _) => $"Trade receivables of {city} include {Millions()} that are more than {random.Next(30, 180)} days overdue. Expected credit losses of {Percent()} are based on payments over the past {random.Next(3, 9)} years.",
            (_, 0) => $"{city} {Any(["Pumpen GmbH", "Process AS", "Valves Ltd", "Flow SpA", "Systems BV"])}, holding {n + 1}: {random.Next(51, 101)} per cent of the capital; equity {Millions()}, result for the year {Millions()}, {random.Next(4, 900):N0} employees.",
            (_, 1) => $"Lease {n + 1}: {random.Next(2, 60) * 500:N0} square metres of {Any(["warehouse", "assembly hall", "office", "yard"])} in {city}, until {Any(["March", "June", "December"])} {year + 6}, at {random.Next(20, 900):N0} thousand pounds a year, with an option to extend by {random.Next(1, 10)} years.",
            _ => $"The Group has guaranteed obligations of its subsidiary in {city} to {industry} customers up to {Millions()}. No payment under the guarantee, which ends in {year + 4}, is expected.",
        };
    }
}
