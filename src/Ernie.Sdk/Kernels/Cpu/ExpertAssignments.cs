namespace Ernie.Sdk.Kernels;

/// <summary>
/// The (token, rank) pairs of a chunk of tokens, grouped by expert: pairs of one expert have consecutive slots, in order of tokens. Lives in scratch memory.
/// </summary>
internal unsafe struct ExpertAssignments
{
    /// <summary>[experts of the range + 1] first slot of each expert.</summary>
    public int* Starts;
    /// <summary>[slots] token of the chunk.</summary>
    public int* Tokens;
    /// <summary>[tokens, k] slot of a token's expert, or -1 where the expert is outside the range.</summary>
    public int* Slots;
    /// <summary>
    /// [active] experts, counted from the range's begin, that have at least one token; those of most tokens first, so that threads which take experts in this order finish together: the last one to
    /// start is the shortest.
    /// </summary>
    public int* Active;
    public int ActiveCount;

    /// <summary>Counting sort of <paramref name="selected"/> [tokens, perToken].</summary>
    public void Group(int* selected, int tokenCount, int perToken, int expertBegin, int expertEnd)
    {
        var experts = expertEnd - expertBegin;
        new Span<int>(Starts, experts + 1).Clear();
        for (var i = 0; i < tokenCount * perToken; i++)
        {
            if (selected[i] >= expertBegin && selected[i] < expertEnd) Starts[selected[i] - expertBegin + 1]++;
        }
        ActiveCount = 0;
        for (var e = 0; e < experts; e++)
        {
            if (Starts[e + 1] > 0) Active[ActiveCount++] = e;
            Starts[e + 1] += Starts[e];
        }
        for (var i = 0; i < tokenCount * perToken; i++)
        {
            Slots[i] = -1;
            if (selected[i] < expertBegin || selected[i] >= expertEnd) continue;
            var slot = Starts[selected[i] - expertBegin]++;
            Tokens[slot] = i / perToken;
            Slots[i] = slot;
        }
        // Filling moved every start to its expert's end, which is the next one's start.
        for (var e = experts; e > 0; e--) Starts[e] = Starts[e - 1];
        Starts[0] = 0;
        OrderByLoad();
    }

    /// <summary>By insertion: stable, without memory, and in decode, where experts have one token each, a single pass. A layer has 128 experts at most.</summary>
    private readonly void OrderByLoad()
    {
        for (var i = 1; i < ActiveCount; i++)
        {
            var expert = Active[i];
            var tokens = TokenCount(expert);
            var j = i;
            for (; j > 0 && TokenCount(Active[j - 1]) < tokens; j--) Active[j] = Active[j - 1];
            Active[j] = expert;
        }
    }

    private readonly int TokenCount(int expert) => Starts[expert + 1] - Starts[expert];
}
