using System.Diagnostics;
using System.IO.MemoryMappedFiles;
using Ernie.Sdk.Native;
using Ernie.Sdk.Operators;

namespace Ernie.Sdk.Tests.Operators;

public sealed unsafe class PageReaderTests
{
    [Fact]
    public void WillNeed_TakesAnyRange()
    {
        using var memory = new NativeArray<byte>(10_000);
        memory.Span.Fill(3);
        MappedPages.WillNeed(memory.Pointer + 17, 5_000);
        MappedPages.WillNeed(memory.Pointer, 0);
        Assert.Equal(-1, memory.Span.IndexOfAnyExcept((byte)3));
    }

    [Fact]
    public void IsResident_OfWrittenPages_IsTrue()
    {
        Assert.SkipUnless(MappedPages.CanTellResidency, "This system does not tell which pages are in memory.");
        using var memory = new NativeArray<byte>(1 << 20);
        memory.Span.Fill(1);
        for (var offset = 0; offset < 1 << 20; offset += 4096) Assert.True(MappedPages.IsResident(memory.Pointer + offset));
    }

    [Fact]
    public void IsResident_OfUntouchedMemory_IsFalse()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "What other systems say of pages that were never touched is not known.");
        using var memory = new VirtualMemory(4 << 20);
        Assert.False(MappedPages.IsResident(memory.Address + (2 << 20)));
    }

    [Fact]
    public void Ask_CarriesOutWhatIsStillNeeded_AndSkipsWhatIsLate()
    {
        using var memory = new NativeArray<byte>(3 * 65_536);
        memory.Span.Fill(1);
        using var reader = new PageReader();
        reader.Advance();
        reader.Ask(memory.Pointer, 1000, neededIn: -1);
        reader.Ask(memory.Pointer, 65_536, neededIn: 1);
        reader.Advance();
        reader.Ask(memory.Pointer, 3 * 65_536, neededIn: 0);
        reader.Wake();
        var clock = Stopwatch.StartNew();
        while (reader.AskedBytes < 4 * 65_536 && clock.Elapsed < TimeSpan.FromSeconds(30)) Thread.Yield();
        Assert.Equal(4 * 65_536, reader.AskedBytes);
    }

    [Fact]
    public void Ask_MoreThanTheQueueHolds_DropsAndNeverBlocks()
    {
        using var memory = new NativeArray<byte>(4096);
        using var reader = new PageReader();
        for (var i = 0; i < 100_000; i++) reader.Ask(memory.Pointer, 1, neededIn: 0);
        reader.Wake();
        Assert.InRange(reader.AskedBytes, 0, 100_000);
    }
}
