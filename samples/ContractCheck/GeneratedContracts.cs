namespace ContractCheck;

/// <summary>Framework agreements of one buyer with three suppliers that do not exist, as long as is asked for. They share their wording and differ in a few terms.</summary>
internal static class GeneratedContracts
{
    private const int Differences = 5;

    private static readonly (string Name, string Supplier)[] s_suppliers = [("Brandt", "Brandt Armaturen GmbH"), ("Ferrol", "Talleres Ferrol SA"), ("Kestrel", "Kestrel Castings Ltd")];

    // {0} is the term; the first value is the usual one.
    private static readonly (string Text, string[] Values)[] s_terms =
    [
        ("Invoices are payable within {0} of receipt of a correct invoice, without deduction, to the account named on it.", ["30 days", "60 days", "14 days"]),
        ("On late payments the Buyer owes interest at {0} a year from the day after the due date, and no other compensation for the delay.", ["5 per cent", "8 per cent", "9 per cent"]),
        ("The Supplier warrants that the Goods are free from defects in design, material and workmanship for {0} from delivery.", ["24 months", "12 months", "36 months"]),
        ("The total liability of either party in a contract year is limited to {0} of the price of the Goods ordered in that year, except for death, personal injury, fraud and wilful default.", ["100 per cent", "50 per cent", "150 per cent"]),
        ("Either party may terminate this Agreement for convenience by giving the other {0} written notice; call-offs accepted before remain binding.", ["six months'", "three months'", "twelve months'"]),
        ("This Agreement, and any dispute out of it, is governed by the law of {0}; the United Nations Convention on Contracts for the International Sale of Goods does not apply.", ["England and Wales", "Germany", "Switzerland"]),
        ("Goods are delivered {0} (Incoterms 2020), packed for sea transport, with the documents listed in Schedule 1.", ["DAP Rotterdam", "FCA the Supplier's works", "CIP Rotterdam"]),
        ("The Buyer shall examine the Goods and give notice of visible defects within {0} of delivery; hidden defects may be notified when they are found.", ["ten working days", "five working days", "thirty days"]),
        ("Prices may be adjusted once in a calendar year, by the change of the agreed index but by no more than {0}.", ["3 per cent", "6 per cent", "2 per cent"]),
        ("Information that is marked confidential, or is so by its nature, shall be kept confidential for {0} after the end of this Agreement.", ["five years", "two years", "ten years"]),
        ("The Supplier maintains product liability insurance of at least {0} for each event and shows the certificate at the Buyer's request.", ["EUR 5 million", "EUR 2 million", "EUR 10 million"]),
        ("A party that is prevented by force majeure for more than {0} may be released from the call-offs concerned by the other's notice.", ["60 days", "90 days", "30 days"]),
        ("For each full week of delay the Supplier pays {0} of the price of the delayed Goods, up to ten per cent, which is credited against damages.", ["1 per cent", "0.5 per cent", "2 per cent"]),
        ("The Supplier keeps test records and certificates of the Goods for {0} and gives copies within five working days of a request.", ["ten years", "five years", "fifteen years"]),
        ("The Buyer may audit the Supplier's works on {0} notice, during working hours and subject to the Supplier's safety rules.", ["ten days'", "30 days'", "48 hours'"]),
        ("Spare parts are available for {0} after the last delivery of Goods of the same type, at prices that follow Schedule 2.", ["ten years", "seven years", "fifteen years"]),
    ];

    private static readonly string[] s_common =
    [
        "In this Agreement, Goods means the castings, valves and spare parts listed in Schedule 2; Specification means the drawings and standards named there; Call-off means an order placed under this Agreement.",
        "The Buyer is not obliged to order any quantity. Forecasts are given in good faith and bind neither party.",
        "General conditions of either party, whatever their wording, form no part of this Agreement or of a Call-off.",
        "The Supplier shall not change the material, the process or the place of manufacture without the Buyer's written consent, which shall not be unreasonably withheld.",
        "Title and risk pass to the Buyer on delivery. A retention of title is not agreed.",
        "Drawings, models and tools that the Buyer provides or pays for are the Buyer's property; they shall be marked, insured and returned on demand.",
        "Neither party may assign rights or obligations without the other's written consent, except to a company of its own group.",
        "The Supplier complies with the Buyer's code of conduct for suppliers, with the laws against bribery, forced labour and child labour, and with the export laws that apply to the Goods.",
        "If a provision is or becomes invalid, the others remain in force, and the parties replace it by one that comes closest to its purpose.",
        "Changes of this Agreement, including this clause, are valid only in writing signed by both parties.",
        "Notices are given in English by letter or e-mail to the persons named in Schedule 3 and take effect on the next working day at the place of receipt.",
        "This Agreement is the entire agreement of the parties on its subject and replaces all earlier ones.",
    ];

    private static readonly string[] s_goods = ["impeller", "volute casing", "check valve", "gate valve", "wear ring", "shaft sleeve", "bearing housing", "mechanical seal", "coupling half", "flange adapter"];
    private static readonly string[] s_materials = ["duplex steel 1.4462", "bronze CC491K", "grey iron EN-GJL-250", "ductile iron EN-GJS-400", "stainless steel 1.4408"];

    public static ContractSet Create(int room, Func<string, int> count, Random random)
    {
        var order = Enumerable.Range(0, s_terms.Length).ToArray();
        random.Shuffle(order);
        // Terms that differ come first here, so that they are in a contract of any length; the order of clauses is drawn below.
        var share = room / s_suppliers.Length;
        var bodies = s_suppliers.Select((_, i) => order.Select((term, n) => string.Format(null, s_terms[term].Text, s_terms[term].Values[n < Differences ? i : 0])).ToList()).ToArray();
        // No clause more than fits beside the longest number.
        int Tokens(string text) => count($"[Kestrel-100] {text}\n\n");
        var fitting = 0;
        var used = count("Contract Kestrel\n\n") + Tokens(Parties(2));
        while (fitting < order.Length && (used += bodies.Max(body => Tokens(body[fitting]))) <= share) fitting++;
        if (fitting < order.Length) used = share;
        var shared = new List<string>();
        foreach (var text in s_common)
        {
            if ((used += Tokens(text)) <= share) shared.Add(text);
        }
        var schedule = new List<string>();
        for (var i = 1; used <= share; i++)
        {
            var item = $"Schedule 2, item {i}: {s_goods[i % s_goods.Length]} DN {25 * random.Next(2, 25)}, {s_materials[random.Next(s_materials.Length)]}, drawing {random.Next(10_000, 99_999)}-{(char)('A' + random.Next(6))}, EUR {random.Next(900, 190_000) / 100.0:F2} each, call-offs of {5 * random.Next(1, 40)} or more, delivery {random.Next(3, 26)} weeks after order.";
            if ((used += Tokens(item)) <= share) schedule.Add(item);
        }

        // Clauses come in the same order in all contracts, but not under the same number: every contract leaves one common clause out where there are enough.
        var positions = Enumerable.Range(0, fitting + shared.Count).ToArray();
        random.Shuffle(positions);
        var texts = s_suppliers.Select((supplier, i) =>
        {
            string[] clauses = [.. bodies[i].Take(fitting), .. shared];
            return (supplier.Name, (IReadOnlyList<string>)[Parties(i), .. positions.Where(p => p - fitting != i || shared.Count < s_common.Length).Select(p => clauses[p]), .. schedule]);
        }).ToArray();
        var contracts = ContractSet.Of(texts, share, count);
        return contracts with
        {
            Differing = [.. Enumerable.Range(0, Math.Min(Differences, fitting)).Select(n => contracts.Contracts.Select((contract, i) => contract.Clauses.Single(clause => clause.Text == bodies[i][n]).Id).ToHashSet())],
        };
    }

    private static string Parties(int i) => $"Framework agreement between Hallmar Process Systems plc (the Buyer) and {s_suppliers[i].Supplier} (the Supplier), in force from 1 January 2026 for three years.";
}
