using CsCheck;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Kernels;

public sealed unsafe class ExpertAssignmentsTests
{
    [Fact]
    public void Group_EqualsGroupingByExpert_AndOrdersByLoad() =>
        Gen.Select(Gen.Int[1, 40], Gen.Int[1, 4], Gen.Int[4, 20], Gen.Int[0, 3], Gen.Int[0, 1 << 20]).Sample((tokens, perToken, experts, begin, seed) =>
        {
            var random = new Random(seed);
            // Squares make some experts busier than others.
            var selected = Enumerable.Range(0, tokens).SelectMany(_ => Enumerable.Range(0, experts).OrderBy(e => random.NextDouble() * (e + 1) * (e + 1)).Take(perToken)).ToArray();
            var end = experts - 1;
            using var result = new Grouped(selected, tokens, perToken, begin, end);

            var expected = selected.Select((expert, pair) => (Expert: expert - begin, Token: pair / perToken)).Where(p => p.Expert >= 0 && p.Expert < end - begin).GroupBy(static p => p.Expert)
                .ToDictionary(static g => g.Key, static g => g.Select(static p => p.Token).ToArray());
            Assert.Equal(expected.OrderByDescending(static g => g.Value.Length).ThenBy(static g => g.Key).Select(static g => g.Key), result.Active);
            foreach (var (expert, tokensOfExpert) in expected) Assert.Equal(tokensOfExpert, result.TokensOf(expert));
            for (var pair = 0; pair < selected.Length; pair++)
            {
                var slot = result.Slot(pair);
                if (selected[pair] < begin || selected[pair] >= end) Assert.Equal(-1, slot);
                else Assert.True(result.IsSlotOf(slot, selected[pair] - begin) && result.TokenAt(slot) == pair / perToken);
            }
        }, iter: 300);

    private sealed class Grouped : IDisposable
    {
        private readonly NativeArray<int> _starts, _tokens, _slots, _active;
        private readonly int _count;

        public Grouped(int[] selected, int tokens, int perToken, int begin, int end)
        {
            (_starts, _tokens, _slots, _active) = (new(end - begin + 1), new(selected.Length), new(selected.Length), new(end - begin));
            var groups = new ExpertAssignments { Starts = _starts.Pointer, Tokens = _tokens.Pointer, Slots = _slots.Pointer, Active = _active.Pointer };
            fixed (int* p = selected) groups.Group(p, tokens, perToken, begin, end);
            _count = groups.ActiveCount;
        }

        public int[] Active => _active.Span[.._count].ToArray();
        public int[] TokensOf(int expert) => _tokens.Span[_starts.Span[expert].._starts.Span[expert + 1]].ToArray();
        public int Slot(int pair) => _slots.Span[pair];
        public int TokenAt(int slot) => _tokens.Span[slot];
        public bool IsSlotOf(int slot, int expert) => slot >= _starts.Span[expert] && slot < _starts.Span[expert + 1];

        public void Dispose()
        {
            _starts.Dispose();
            _tokens.Dispose();
            _slots.Dispose();
            _active.Dispose();
        }
    }
}
