using System.Runtime.InteropServices;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Engine;

/// <summary>
/// On the GPU: what the requests want goes there, tokens come back, and the logits stay. Sums and exponentials are rounded otherwise than on the CPU, so a draw that falls on the edge between two tokens may fall to
/// either side; greedy answers are the same.
/// </summary>
internal sealed unsafe class GpuSampler(GpuDevice device, CudaContext context, CudaStream stream, CudaModules modules, int vocabSize, IReadOnlyList<Range> undefinedRows) : StepSampler, IDisposable
{
    /// <summary>Of each list in the memory that goes to the GPU.</summary>
    private const int Alignment = 16;
    private const int LeastPinnedBytes = 64 << 10;

    private readonly CudaWorkspace _workspace = new(context);
    private readonly StreamLauncher _launcher = new(modules);
    private readonly int[] _undefined = [.. undefinedRows.SelectMany(static range => new[] { range.Start.Value, range.End.Value })];
    private readonly int _words = (vocabSize + 63) / 64;
    private readonly List<SampleRow> _rows = [];
    private readonly List<int> _places = [];
    private readonly List<int> _historyIds = [], _historyCounts = [], _biasIds = [];
    private readonly List<float> _biasValues = [];
    private readonly List<ulong> _allowed = [];
    private CudaMemory? _input, _output;
    /// <summary>What goes there and comes back, where the GPU can copy it while the CPU goes on.</summary>
    private CudaPinnedBuffer? _sent, _received;

    public override void Choose(IReadOnlyList<Sequence> sequences, int[] rows, TokenChoice[] choices)
    {
        Collect(sequences, rows, choices);
        if (_rows.Count == 0)
        {
            // All constraints have failed; the step is over all the same when this returns.
            device.Wait();
            return;
        }
        var maxTop = _rows.Max(static row => Math.Max(row.Top, 0));
        try
        {
            device.Try(() => Launch(maxTop));
        }
        catch
        {
            // The step's sequences end with this, and others get their blocks.
            device.Abandon();
            throw;
        }

        // tokens, their log-probabilities; then lists of [maxTop]
        var count = _rows.Count;
        var received = _received!.Address;
        var tokens = new ReadOnlySpan<int>(received, count);
        var log = new ReadOnlySpan<float>((float*)received + count, count);
        var topIds = new ReadOnlySpan<int>((int*)received + 2 * count, count * maxTop);
        var topLog = new ReadOnlySpan<float>((float*)received + (2 + maxTop) * count, count * maxTop);
        for (var i = 0; i < count; i++)
        {
            var top = new (int Id, float LogProbability)[Math.Min(Math.Max(_rows[i].Top, 0), vocabSize)];
            for (var rank = 0; rank < top.Length; rank++) top[rank] = (topIds[i * maxTop + rank], topLog[i * maxTop + rank]);
            choices[_places[i]] = Take(sequences[_places[i]], tokens[i], _rows[i].Top < 0 ? null : new TokenProbabilities(log[i], top));
        }
    }

    public void Dispose()
    {
        _workspace.Dispose();
        _input?.Dispose();
        _output?.Dispose();
        _sent?.Dispose();
        _received?.Dispose();
    }

    /// <summary>What the kernel must know of each sequence that gets a token.</summary>
    private void Collect(IReadOnlyList<Sequence> sequences, int[] rows, TokenChoice[] choices)
    {
        foreach (var list in new System.Collections.IList[] { _rows, _places, _historyIds, _historyCounts, _biasIds, _biasValues, _allowed }) list.Clear();
        for (var i = 0; i < sequences.Count; i++)
        {
            if (rows[i] < 0) continue;
            var sequence = sequences[i];
            var settings = sequence.Sampling;
            var mask = -1;
#pragma warning disable CA1031 // A constraint that fails ends its own request; the others of the step go on.
            try
            {
                var allowed = Allowed(sequence);
                if (!allowed.IsEmpty)
                {
                    mask = _allowed.Count / _words;
                    _allowed.AddRange(allowed[..Math.Min(allowed.Length, _words)]);
                    CollectionsMarshal.SetCount(_allowed, (mask + 1) * _words);
                    CollectionsMarshal.AsSpan(_allowed)[(mask * _words + Math.Min(allowed.Length, _words))..].Clear();
                }
            }
            catch (Exception e)
            {
                choices[i] = new TokenChoice(0, null, e);
                continue;
            }
#pragma warning restore CA1031
            var row = new SampleRow
            {
                Seed = settings.Seed, Temperature = settings.Temperature, TopP = settings.TopP, MinP = settings.MinP, TopK = settings.TopK, Greedy = settings.IsGreedy ? 1 : 0,
                Repetition = settings.RepetitionPenalty, Frequency = settings.FrequencyPenalty, Presence = settings.PresencePenalty,
                LogitsRow = rows[i], HistoryBegin = _historyIds.Count, BiasBegin = _biasIds.Count, Allowed = mask, Draw = sequence.GeneratedCount, Top = sequence.TopProbabilities ?? -1,
            };
            if (settings.HasPenalties) sequence.History!.AppendTo(_historyIds, _historyCounts);
            foreach (var (id, bias) in settings.Bias)
            {
                _biasIds.Add(id);
                _biasValues.Add(bias);
            }
            (row.HistoryEnd, row.BiasEnd) = (_historyIds.Count, _biasIds.Count);
            _rows.Add(row);
            _places.Add(i);
        }
    }

    /// <summary>One copy there, one kernel, one copy back.</summary>
    private void Launch(int maxTop)
    {
        var lists = new[]
        {
            Bytes(_rows), Bytes(_historyIds), Bytes(_historyCounts), Bytes(_biasIds), Bytes(_biasValues), Bytes(_allowed), _undefined.Length * sizeof(int),
        };
        var begin = new int[lists.Length + 1];
        for (var i = 0; i < lists.Length; i++) begin[i + 1] = checked(begin[i] + (lists[i] + Alignment - 1) / Alignment * Alignment);
        var (count, sentBytes, receivedBytes) = (_rows.Count, begin[^1], checked(2 * _rows.Count * (1 + maxTop) * sizeof(int)));
        Grow(ref _sent, sentBytes);
        Grow(ref _received, receivedBytes);
        Put(_rows, begin[0]);
        Put(_historyIds, begin[1]);
        Put(_historyCounts, begin[2]);
        Put(_biasIds, begin[3]);
        Put(_biasValues, begin[4]);
        Put(_allowed, begin[5]);
        _undefined.CopyTo(new Span<int>(_sent!.Address + begin[6], _undefined.Length));
        Grow(ref _input, sentBytes);
        Grow(ref _output, receivedBytes);

        byte* input = (byte*)_input!.Address, output = (byte*)_output!.Address;
        _launcher.Begin(stream.Handle, _workspace);
        _input.CopyFrom(_sent.Address, sentBytes, stream: stream);
        new CudaLaunches(_launcher).Sample(new SampleArguments
        {
            Logits = (float*)device.LogitsAddress, VocabSize = vocabSize, Rows = (SampleRow*)(input + begin[0]), RowCount = count,
            HistoryIds = (int*)(input + begin[1]), HistoryCounts = (int*)(input + begin[2]), BiasIds = (int*)(input + begin[3]), BiasValues = (float*)(input + begin[4]),
            Allowed = (ulong*)(input + begin[5]), AllowedWords = _words, Undefined = (int*)(input + begin[6]), UndefinedCount = _undefined.Length / 2,
            Tokens = (int*)output, LogProbabilities = (float*)output + count, TopIds = (int*)output + 2 * count, TopLogProbabilities = (float*)output + (2 + maxTop) * count, MaxTop = maxTop,
        });
        _output.CopyTo(_received!.Address, receivedBytes, stream: stream);
        device.WaitAndCount();
        _workspace.Join();
    }

    private static TokenChoice Take(Sequence sequence, int token, TokenProbabilities? probabilities)
    {
#pragma warning disable CA1031
        try
        {
            sequence.Constraint?.Advance(token);
            return new TokenChoice(token, probabilities, null);
        }
        catch (Exception e)
        {
            return new TokenChoice(0, null, e);
        }
#pragma warning restore CA1031
    }

    private void Grow(ref CudaMemory? memory, long bytes)
    {
        if (memory?.Bytes >= bytes) return;
        memory?.Dispose();
        memory = null;
        memory = context.Allocate(bytes);
    }

    private void Grow(ref CudaPinnedBuffer? memory, long bytes)
    {
        if (memory?.Bytes >= bytes) return;
        memory?.Dispose();
        memory = null;
        // Histories grow with every token: not each growth is worth pinning anew.
        memory = new CudaPinnedBuffer(context, (long)System.Numerics.BitOperations.RoundUpToPowerOf2((ulong)Math.Max(bytes, LeastPinnedBytes)));
    }

    private static int Bytes<T>(List<T> list) where T : unmanaged => checked(list.Count * sizeof(T));

    private void Put<T>(List<T> list, int begin) where T : unmanaged => MemoryMarshal.AsBytes(CollectionsMarshal.AsSpan(list)).CopyTo(new Span<byte>(_sent!.Address + begin, Bytes(list)));
}
