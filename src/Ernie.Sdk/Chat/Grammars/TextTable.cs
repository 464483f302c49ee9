using System.Runtime.CompilerServices;

namespace Ernie.Sdk.Chat.Grammars;

/// <summary>What every token of a vocabulary does from one state of a text's rule, as long as it stays in it and has no forbidden text.</summary>
internal sealed class TextTable
{
    private TextTable(Step[] inside, Exit[] exits) => (Inside, Exits) = (inside, exits);

    /// <param name="Target">State after the tokens; relative to the rule's start.</param>
    /// <param name="Added">Characters that they add.</param>
    /// <param name="Search">Of the forbidden texts, after them.</param>
    /// <param name="Tokens">Those that end there.</param>
    public readonly record struct Step(int Target, int Added, int Search, TokenSet Tokens);

    /// <param name="Node">Of the trie, where the text has just ended.</param>
    /// <param name="Added">Characters before.</param>
    /// <param name="Search">Of the forbidden texts, there.</param>
    public readonly record struct Exit(int Node, int Added, int Search);

    public IReadOnlyList<Step> Inside { get; }
    public IReadOnlyList<Exit> Exits { get; }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static TextTable Of(GrammarNetwork network, int start, TokenTrie trie, ForbiddenBytes forbidden, int search)
    {
        var rule = network.States[start].Rule;
        var counts = rule.IsPlainString || rule.IsCounted;
        var inside = new Dictionary<(int State, int Added, int Search), List<int>>();
        var exits = new List<Exit>();
        var path = new (int State, int Added, int Search)[trie.MaximumDepth + 1];
        path[0] = (start, 0, search);
        for (var node = 1; node < trie.NodeCount;)
        {
            var depth = trie.Depth(node);
            var (state, added, before) = path[depth - 1];
            if (!network.States[state].TryGetEdge(trie.Label(node), out var edge) || forbidden.Next(before, trie.Label(node)) is var after && after == ForbiddenBytes.Found)
            {
                node = trie.End(node);
                continue;
            }
            if (counts && (edge.Flags & EdgeFlags.Counts) != 0) added++;
            if (network.States[edge.Target].IsExit)
            {
                exits.Add(new Exit(node, added, after));
                node = trie.End(node);
                continue;
            }
            path[depth] = (edge.Target, added, after);
            for (var token = trie.Token(node); token >= 0; token = trie.Twin(token))
            {
                if (!inside.TryGetValue(path[depth], out var tokens)) inside[path[depth]] = tokens = [];
                tokens.Add(token);
            }
            node++;
        }
        return new TextTable([.. inside.Select(pair => new Step(pair.Key.State - rule.Start, pair.Key.Added, pair.Key.Search, new TokenSet(pair.Value, trie.TokenCount)))], [.. exits]);
    }
}
