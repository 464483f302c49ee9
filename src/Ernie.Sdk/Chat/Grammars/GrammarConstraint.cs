using Ernie.Sdk.Engine;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>Keeps one answer within a grammar: whatever the model prefers, the answer is a whole document before its tokens run out.</summary>
internal sealed class GrammarConstraint : TokenConstraint
{
    private readonly Grammar _grammar;
    private readonly int[] _stopTokens;
    private readonly ulong[] _mask;
    private int _place;
    private int? _reasoningLeft;

    /// <param name="grammar">Of the answer.</param>
    /// <param name="vocabularySize">Rows of the logits.</param>
    /// <param name="stopTokens">Tokens that end a complete document.</param>
    /// <param name="maxReasoningTokens">After so many, reasoning is left on the shortest way.</param>
    public GrammarConstraint(Grammar grammar, int vocabularySize, IEnumerable<int> stopTokens, int? maxReasoningTokens = null)
    {
        (_grammar, _place, _reasoningLeft) = (grammar, grammar.Start, maxReasoningTokens);
        _stopTokens = [.. stopTokens.Where(id => id < vocabularySize)];
        _mask = new ulong[(vocabularySize + 63) / 64];
    }

    public bool IsComplete { get; private set; }

    public override int TokensToEnd => _grammar.TokensToEnd(_place);

    public override ReadOnlySpan<ulong> Allowed(int remaining)
    {
        if (_reasoningLeft <= 0 && _grammar.IsReasoning(_place)) remaining = Math.Min(remaining, TokensToEnd);
        _grammar.Allow(_place, remaining, _mask);
        var isComplete = _grammar.IsComplete(_place);
        foreach (var id in _stopTokens)
        {
            if (isComplete) _mask[id >> 6] |= 1UL << id;
            else _mask[id >> 6] &= ~(1UL << id);
        }
        return _mask;
    }

    public override void Advance(int token)
    {
        if (_stopTokens.Contains(token)) return;
        _place = _grammar.Next(_place, token);
        IsComplete = _grammar.IsComplete(_place);
        _reasoningLeft--;
    }
}
