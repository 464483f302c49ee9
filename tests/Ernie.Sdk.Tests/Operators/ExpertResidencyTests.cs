using Ernie.Sdk.Operators;

namespace Ernie.Sdk.Tests.Operators;

/// <summary>Which experts change places for which load, without any GPU.</summary>
public sealed class ExpertResidencyTests
{
    private const int Experts = 16, Slots = 8, PerToken = 2;

    [Fact]
    public void HotExperts_TakeThePlacesOfIdleOnes_OneAStep()
    {
        var residency = Of(layers: 1);
        // The last two experts compute every token.
        var moves = Run(residency, 100, static (_, _) => [14, 15]);
        Assert.Equal([14, 15], moves.Select(static move => move.Expert).Order());
        Assert.All(moves, static move => Assert.InRange(move.Replaced, 0, Slots - 1));
        Assert.Equal(2, moves.Select(static move => move.Slot).Distinct().Count());
        Assert.All(moves, move => Assert.Equal((move.Slot, -1), (residency.SlotsOf(0)[move.Expert], residency.SlotsOf(0)[move.Replaced])));
        Assert.Equal(Slots, residency.SlotsOf(0).ToArray().Where(static slot => slot >= 0).Distinct().Count());
        Assert.Equal(1, residency.Share());
        Assert.Equal(2, residency.MoveCount);
        // 36 choices against none are six standard deviations.
        Assert.Equal(2, Run(Of(layers: 1), 40, static (_, _) => [14, 15]).Count);
        Assert.Empty(Run(Of(layers: 1), 35, static (_, _) => [14, 15]));
        // A prompt is enough.
        Assert.Equal(2, Run(Of(layers: 1), 2, static (_, _) => [.. Enumerable.Repeat(14, 64), .. Enumerable.Repeat(15, 64)]).Count);
    }

    [Fact]
    public void ALoadThatHasOrder_IsFollowedToTheEnd()
    {
        // Expert e is chosen in proportion to e + 1: the busier half comes to the GPU.
        var random = new Random(5);
        var residency = Of(layers: 1);
        Run(residency, 4000, (_, _) => [.. Enumerable.Range(0, 8 * PerToken).Select(_ => Weighted(random))]);
        var resident = Enumerable.Range(0, Experts).Where(e => residency.SlotsOf(0)[e] >= 0).ToArray();
        // Neighbours in the middle are too much alike.
        Assert.All(Enumerable.Range(11, 5), e => Assert.Contains(e, resident));
        Assert.All(Enumerable.Range(0, 5), e => Assert.DoesNotContain(e, resident));
        Assert.InRange(residency.Share(), 0.66, 0.75);

        static int Weighted(Random random)
        {
            var at = random.Next(Experts * (Experts + 1) / 2);
            for (var e = 0; ; e++)
            {
                if ((at -= e + 1) < 0) return e;
            }
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(8)]
    [InlineData(64)]
    public void EvenLoad_MovesNothing(int tokens)
    {
        var random = new Random(tokens);
        Assert.Empty(Run(Of(layers: 4), 10_000, (_, _) => [.. Enumerable.Range(0, tokens * PerToken).Select(_ => random.Next(Experts))]));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(20)]
    [InlineData(64)]
    [InlineData(150)]
    public void LoadThatAlternatesWithinTheWindow_MovesEachExpertOnceAtMost(int period)
    {
        var moves = Run(Of(layers: 1), 5000, (_, step) => step / period % 2 == 0 ? [0, 1] : [8, 9]);
        Assert.All(moves.GroupBy(static move => move.Expert), static group => Assert.Single(group));
        Assert.All(moves, static move => Assert.InRange(move.Expert, 8, 9));
        // Both pairs find room.
        Assert.DoesNotContain(moves, static move => move.Replaced is 0 or 1);
    }

    [Fact]
    public void WithRoomForOneOfTwo_AlternatingLoad_DoesNotThrash()
    {
        foreach (var period in new[] { 1, 10, 50, 100, 200 })
        {
            var residency = new ExpertResidency(1, 2);
            residency.Add(0, 0, 2, 1);
            Assert.InRange(Run(residency, 20_000, (_, step) => [step / period % 2]).Count, 0, 2);
        }
    }

    [Fact]
    public void WhateverTheLoad_AnExpertRestsWhereItCame()
    {
        // Every fifty steps the other expert is chosen, by twice as many tokens as before.
        var residency = new ExpertResidency(1, 2);
        residency.Add(0, 0, 2, 1);
        var steps = new List<int>();
        for (var step = 0; step < 800; step++)
        {
            residency.BeginStep();
            residency.Count(0, Enumerable.Repeat(step / 50 % 2, 1 << step / 50).ToArray());
            if (residency.Next() is not { } move) continue;
            residency.Leave(move);
            residency.Arrive(move);
            steps.Add(step);
        }
        Assert.InRange(steps.Count, 4, 7);
        Assert.All(steps.Zip(steps.Skip(1)), static pair => Assert.True(pair.Second - pair.First >= ExpertResidency.RestSteps));
    }

    [Fact]
    public void OfAllLayers_TheOneThatGainsMostComesFirst()
    {
        var residency = Of(layers: 3);
        var moves = Run(residency, 1, static (layer, _) => [.. Enumerable.Repeat(9, layer == 1 ? 200 : 50 + layer)]);
        Assert.Equal([(1, 9)], moves.Select(static move => (move.Layer, move.Expert)));
        moves = Run(residency, 2, static (layer, _) => [.. Enumerable.Repeat(9, layer == 1 ? 200 : 50 + layer)]);
        Assert.Equal([(2, 9), (0, 9)], moves.Select(static move => (move.Layer, move.Expert)));
    }

    [Fact]
    public void ASlotThatAFailureLeftEmpty_IsFilledBeforeAllElse()
    {
        var residency = Of(layers: 2);
        residency.BeginStep();
        for (var layer = 0; layer < 2; layer++) residency.Count(layer, [.. Enumerable.Repeat(12, 80 + layer)]);
        var failed = residency.Next()!.Value;
        Assert.Equal((1, 12), (failed.Layer, failed.Expert));
        residency.Leave(failed);
        Assert.Equal((-1, -1), (residency.SlotsOf(1)[12], residency.SlotsOf(1)[failed.Replaced]));
        Assert.Equal(0, residency.MoveCount);

        residency.BeginStep();
        // The expert that had to go is the CPU's.
        Assert.Equal(2, residency.Count(1, [failed.Replaced, 12]));
        residency.Count(0, [.. Enumerable.Repeat(12, 1000)]);
        Assert.Equal(new ExpertMove(1, 12, failed.Slot, -1), residency.Next());
    }

    [Fact]
    public void ExpertsOfOtherDevices_AreNotCounted_AndNeverCome()
    {
        // This device has experts 4 .. 11, five of them on the GPU.
        var residency = new ExpertResidency(1, Experts);
        residency.Add(0, 4, 12, 5);
        Assert.Equal([-1, -1, -1, -1, 0, 1, 2, 3, 4, -1, -1, -1, -1, -1, -1, -1], residency.SlotsOf(0).ToArray());
        residency.BeginStep();
        Assert.Equal(3, residency.Count(0, [0, 4, 9, 10, 11, 15]));
        Assert.Empty(Run(residency, 500, static (_, _) => [0, 15]));
        Assert.Equal(9, Assert.Single(Run(residency, 500, static (_, _) => [0, 9])).Expert);
    }

    [Fact]
    public void ALayerWithoutSlots_IsTheCpus()
    {
        var residency = new ExpertResidency(2, Experts);
        residency.Add(0, 0, Experts, 0);
        residency.BeginStep();
        Assert.Equal(4, residency.Count(0, [1, 2, 3, 3]));
        // Wholly on the GPU, and so not known here.
        Assert.Equal(0, residency.Count(1, [1, 2, 3, 3]));
        Assert.Empty(Run(residency, 200, static (_, _) => [3, 3]));
        Assert.Equal(0, residency.Share());
    }

    private static ExpertResidency Of(int layers)
    {
        var residency = new ExpertResidency(layers, Experts);
        for (var layer = 0; layer < layers; layer++) residency.Add(layer, 0, Experts, Slots);
        return residency;
    }

    /// <summary>The moves of some steps, in which a layer's router chooses what it is told.</summary>
    private static List<ExpertMove> Run(ExpertResidency residency, int steps, Func<int, int, int[]> choices)
    {
        var moves = new List<ExpertMove>();
        for (var step = 0; step < steps; step++)
        {
            residency.BeginStep();
            for (var layer = 0; layer < residency.LayerCount; layer++) residency.Count(layer, choices(layer, step));
            if (residency.Next() is not { } move) continue;
            residency.Leave(move);
            residency.Arrive(move);
            moves.Add(move);
        }
        return moves;
    }
}
