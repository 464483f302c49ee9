namespace Ernie.Sdk.Chat.Grammars;

/// <summary>Tokens, as ids while they are few and as bits where those are smaller.</summary>
internal sealed class TokenSet
{
    private readonly int[]? _ids;
    private readonly ulong[]? _bits;

    public TokenSet(List<int> ids, int tokenCount)
    {
        if (ids.Count < tokenCount / 32)
        {
            _ids = [.. ids];
            return;
        }
        _bits = new ulong[(tokenCount + 63) / 64];
        foreach (var id in ids) _bits[id >> 6] |= 1UL << id;
    }

    public void AddTo(Span<ulong> mask)
    {
        if (_ids is not null)
        {
            foreach (var id in _ids) mask[id >> 6] |= 1UL << id;
            return;
        }
        System.Numerics.Tensors.TensorPrimitives.BitwiseOr(mask[.._bits!.Length], _bits, mask[.._bits.Length]);
    }
}
