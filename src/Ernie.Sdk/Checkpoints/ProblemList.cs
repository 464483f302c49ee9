namespace Ernie.Sdk.Checkpoints;

/// <summary>Problems of one kind, reported together: the first five, and how many there are.</summary>
internal sealed class ProblemList(string heading, string cure)
{
    private const int Shown = 5;
    private readonly List<string> _first = [];

    public long Count { get; private set; }

    public void Add(string problem)
    {
        if (Count++ < Shown) _first.Add(problem);
    }

    public override string ToString() =>
        $"{heading}: {string.Join("; ", _first)}{(Count > Shown ? $"; and {Count - Shown} more ({Count} in all)" : "")}. {cure}";

    public void ThrowIfAny()
    {
        if (Count > 0) throw new InvalidDataException(ToString());
    }

    public void ThrowUnsupportedIfAny()
    {
        if (Count > 0) throw new NotSupportedException(ToString());
    }
}
