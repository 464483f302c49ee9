namespace Ernie.Sdk.Checkpoints;

/// <summary>
/// All tensors of a checkpoint, over its shards, by stem: the stored name without <c>model.</c> or <c>ernie.</c>. What inference never needs is set aside here.
/// </summary>
internal sealed class StoredTensors
{
    private readonly Dictionary<string, StoredTensor> _byStem = new(StringComparer.Ordinal);
    private readonly HashSet<string> _claimed = new(StringComparer.Ordinal);
    private int _skippedMtp;
    private int _skippedCounters;

    public int Count => _byStem.Count;
    public IEnumerable<StoredTensor> All => _byStem.Values;
    /// <summary>Whether any name carries Baidu's own prefix.</summary>
    public bool HasErniePrefix { get; private set; }
    public bool HasUnprefixedLayers { get; private set; }

    public void Add(StoredTensor tensor)
    {
        var name = tensor.Name;
        // Layers that draft tokens further ahead. transformers, too, skips every name with 'mtp'.
        if (name.Contains("mtp", StringComparison.Ordinal)) { _skippedMtp++; return; }
        // How often training used each expert, and a constant of RoPE that old writers saved.
        if (name.EndsWith(".expert_usage", StringComparison.Ordinal) || name.EndsWith(".inv_freq", StringComparison.Ordinal)) { _skippedCounters++; return; }
        HasErniePrefix |= name.StartsWith("ernie.", StringComparison.Ordinal);
        HasUnprefixedLayers |= name.StartsWith("layers.", StringComparison.Ordinal);
        if (!_byStem.TryAdd(Stem(name), tensor))
        {
            var other = _byStem[Stem(name)];
            throw new InvalidDataException($"{tensor.File}: tensor '{name}' is in the checkpoint twice (as '{other.Name}' in {other.File}). Remove the file that does not belong, or download the checkpoint again.");
        }
    }

    public StoredTensor? Find(string stem) => _byStem.GetValueOrDefault(stem);

    public bool Has(string stem) => _byStem.ContainsKey(stem);

    /// <summary>As <see cref="Find"/>, and marks the tensor as used.</summary>
    public StoredTensor? Claim(string stem)
    {
        if (!_byStem.TryGetValue(stem, out var tensor)) return null;
        _claimed.Add(stem);
        return tensor;
    }

    public IEnumerable<KeyValuePair<string, StoredTensor>> Unclaimed => _byStem.Where(pair => !_claimed.Contains(pair.Key));

    public IEnumerable<KeyValuePair<string, StoredTensor>> Stems => _byStem;

    public void NoteSkipped(ICollection<string> notes)
    {
        if (_skippedMtp > 0) notes.Add($"{_skippedMtp} tensors of multi-token prediction (mtp) are left out; inference does not need them.");
        if (_skippedCounters > 0) notes.Add($"{_skippedCounters} tensors without a use at inference are left out (expert_usage, inv_freq).");
    }

    public static string Stem(string name) =>
        name.StartsWith("model.", StringComparison.Ordinal) || name.StartsWith("ernie.", StringComparison.Ordinal) ? name[6..] : name;
}
