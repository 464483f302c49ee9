using System.Runtime.InteropServices;

namespace Ernie.Sdk.Kernels;

/// <summary>What <c>sampling.cu</c> is told of a sequence that gets a token: its Row, field by field.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct SampleRow
{
    public ulong Seed;
    public float Temperature;
    public float TopP;
    public float MinP;
    public float Repetition;
    public float Frequency;
    public float Presence;
    public int TopK;
    /// <summary>1: the likeliest token, whatever stands above.</summary>
    public int Greedy;
    /// <summary>Row of the logits; -1: this sequence gets no token.</summary>
    public int LogitsRow;
    /// <summary>In the lists of the history: every token of prompt and answer once, and how often the answer has it.</summary>
    public int HistoryBegin;
    public int HistoryEnd;
    /// <summary>In the lists of biases.</summary>
    public int BiasBegin;
    public int BiasEnd;
    /// <summary>Number of the mask of allowed tokens; -1: all are.</summary>
    public int Allowed;
    /// <summary>Number of the draw in its sequence.</summary>
    public int Draw;
    /// <summary>How many of the likeliest tokens are wanted; -1: no log-probabilities.</summary>
    public int Top;
}

/// <summary>One launch of <c>sampling.cu</c>; all pointers are device memory.</summary>
internal unsafe struct SampleArguments
{
    /// <summary>[rows, vocabulary].</summary>
    public float* Logits;
    public int VocabSize;
    /// <summary>[count, 2] ranges of ids that are no tokens.</summary>
    public int* Undefined;
    public int UndefinedCount;
    /// <summary>[sequences].</summary>
    public SampleRow* Rows;
    public int RowCount;
    public int* HistoryIds;
    public int* HistoryCounts;
    public int* BiasIds;
    public float* BiasValues;
    /// <summary>[masks, <see cref="AllowedWords"/>] a bit for each token.</summary>
    public ulong* Allowed;
    public int AllowedWords;
    /// <summary>[sequences].</summary>
    public int* Tokens;
    /// <summary>[sequences] of the tokens.</summary>
    public float* LogProbabilities;
    /// <summary>[sequences, <see cref="MaxTop"/>] the likeliest first.</summary>
    public int* TopIds;
    public float* TopLogProbabilities;
    public int MaxTop;
}
