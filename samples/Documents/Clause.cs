namespace Samples.Documents;

/// <summary>A numbered paragraph.</summary>
internal sealed record Clause(string Id, string Text);
