using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Operators;

namespace Ernie.Sdk.Engine;

/// <summary>The largest step that a model is computed in.</summary>
/// <param name="Tokens">Of all sequences together.</param>
/// <param name="Sequences">With a row of logits each.</param>
/// <param name="Positions">Of the longest sequence.</param>
internal readonly record struct StepSize(int Tokens, int Sequences, int Positions)
{
    /// <param name="chunk">Prompt tokens of a step at most.</param>
    /// <param name="requests">Requests that are computed together.</param>
    /// <param name="contextLength">Tokens of each.</param>
    public static StepSize Of(int chunk, int requests, int contextLength) => new(checked((int)Math.Min(chunk, (long)requests * contextLength) + requests), requests, contextLength);

    public int Blocks => KvCache.BlocksFor(Positions);
}

/// <summary>What a GPU holds beside weights and cache while the largest step is computed, in bytes.</summary>
internal sealed record GpuWorkspace
{
    /// <summary>Scratch memory of our operators, which have it one after another. Exact: the launches themselves are asked.</summary>
    public required long OperatorBytes { get; init; }
    /// <summary>The routers' choices of a step. Exact.</summary>
    public required long ChoiceBytes { get; init; }
    /// <summary>What is exchanged with experts on the CPU, and which those are. Exact.</summary>
    public required long ExchangeBytes { get; init; }
    /// <summary>A row of logits for each sequence. Exact; commands that look at the logits of every token take more.</summary>
    public required long LogitBytes { get; init; }
    /// <summary>Rotary angles of every position. Exact.</summary>
    public required long RopeBytes { get; init; }
    /// <summary>What choosing tokens takes where requests have penalties and masks, and the numbers of captured steps.</summary>
    public required long SamplerBytes { get; init; }
    /// <summary>
    /// Tensors that ONNX Runtime passes between nodes, twice what lives at once: its arena fits them into pieces that steps of other sizes have left. An estimate that no GPU has confirmed yet.
    /// </summary>
    public required long ProviderBytes { get; init; }

    /// <summary>The residual stream, where it comes from another device or goes to one. Exact.</summary>
    public required long HiddenBytes { get; init; }

    /// <summary>Of a GPU that has the model's first layer, or not, and the last one, or not.</summary>
    public long BytesOf(bool hasFirst, bool hasLast) =>
        checked(OperatorBytes + ChoiceBytes + ExchangeBytes + RopeBytes + ProviderBytes + (hasFirst ? 0 : HiddenBytes) + (hasLast ? LogitBytes + SamplerBytes : HiddenBytes));

    /// <param name="config">The model.</param>
    /// <param name="weights">All weights of its graph.</param>
    /// <param name="cache">Element type of cached keys and values.</param>
    /// <param name="step">The largest step.</param>
    public static GpuWorkspace For(ErnieConfig config, IReadOnlyList<ExportedWeight> weights, KvElementType cache, StepSize step)
    {
        checked
        {
            long tokens = step.Tokens, sequences = step.Sequences, hidden = config.HiddenSize, vocabulary = config.VocabSize;
            var isMoe = config.MoeLayerCount > 0;
            // The residual stream, its norm, a block's output and their sum; beside them q|k|v and what attention makes of it, or a SwiGLU.
            var widest = Math.Max(config.QkvSize + (long)config.HeadCount * config.HeadDim, Math.Max(config.IntermediateSize, config.SharedIntermediateSize));
            var numbers = 4 * tokens + sequences * (step.Blocks + 16L);
            return new GpuWorkspace
            {
                OperatorBytes = Math.Max(CudaWorkspace.LeastBytes, Operators(config, weights, cache, step)),
                ChoiceBytes = isMoe ? config.MoeLayerCount * tokens * config.ExpertsPerToken * sizeof(int) : 0,
                ExchangeBytes = isMoe ? CudaHostExperts.DeviceBytes(step.Tokens, config.HiddenSize, config.ExpertsPerToken) + (long)config.MoeLayerCount * config.ExpertCount * sizeof(int) : 0,
                HiddenBytes = ResidualStream.DeviceBytes(step.Tokens, config.HiddenSize),
                LogitBytes = sequences * vocabulary * sizeof(float),
                RopeBytes = (long)step.Positions * config.HeadDim * sizeof(float),
                SamplerBytes = Math.Max(CudaWorkspace.LeastBytes, sequences * vocabulary * sizeof(float)) + sequences * (vocabulary / 8 + 2 * sizeof(int) * Math.Min(vocabulary, step.Positions) + 4096 + 4L * step.Blocks * sizeof(int)) + (1 << 17),
                ProviderBytes = 2 * sizeof(float) * (tokens * (4 * hidden + widest) + 2 * sequences * hidden + numbers),
            };
        }
    }

    /// <summary>Asks every launch of the largest step what it would take.</summary>
    private static unsafe long Operators(ErnieConfig config, IReadOnlyList<ExportedWeight> weights, KvElementType cache, StepSize step)
    {
        long most = 0;
        var tally = new Tally();
        // What all operators of a step share, norms quantised.
        var launches = new CudaLaunches(tally, new CudaStep(CudaStepKind.Mixed) { Quantises = true });
        launches.AddRmsNorm(new AddRmsNormArguments { TokenCount = step.Tokens, Columns = Math.Min(config.HiddenSize, CudaLaunches.MaxNormColumns) });
        void Add(Action launch)
        {
            tally.Bytes = 0;
            launch();
            most = Math.Max(most, tally.Bytes);
        }

        var byName = weights.ToDictionary(static weight => weight.Name, StringComparer.Ordinal);
        foreach (var weight in weights.Where(static weight => weight.Shape.Count == 2).DistinctBy(static weight => (weight.Format, weight.Rows, weight.Columns, weight.SectionRows)))
            Add(() => launches.Linear(new LinearArguments { TokenCount = step.Tokens, Weight = Matrix(weight), SwiGlu = 2 * weight.SectionRows == weight.Rows }));
        for (var layer = 0; layer < config.LayerCount; layer++)
        {
            if (!config.IsMoeLayer(layer)) continue;
            var (gateUp, down) = (byName[ErnieGraph.ExpertGateUp(layer)], byName[ErnieGraph.ExpertDown(layer)]);
            Add(() => launches.Experts(new ExpertsArguments
            {
                TokenCount = step.Tokens, HiddenSize = config.HiddenSize, ExpertCount = Math.Min(config.ExpertCount, CudaLaunches.MaxExperts), ExpertsPerToken = config.ExpertsPerToken,
                IntermediateSize = config.ExpertIntermediateSize, ExpertEnd = Math.Min(config.ExpertCount, CudaLaunches.MaxExperts), GateUp = Matrix(gateUp), Down = Matrix(down), Router = (float*)Tally.Address,
            }));
        }
        // A plan may be asked for of shapes that no kernel knows.
        var headDim = Math.Min((config.HeadDim + 15) / 16 * 16, CudaLaunches.MaxHeadDim);
        var attention = new AttentionArguments
        {
            TokenCount = step.Tokens, SequenceCount = step.Sequences, BlockTableStride = Math.Min(step.Blocks, CudaLaunches.MaxSparseBlocks), Limits = (SparseLimits*)Tally.Address,
            Layout = new KvBlockLayout(cache, config.KvHeadCount, headDim), HeadCount = config.HeadCount, KvHeadCount = config.KvHeadCount, HeadDim = headDim, KvHeadEnd = config.KvHeadCount,
        };
        Add(() => launches.Attention(attention, null));
        // Steps of decodes keep what they quantise for the product that follows.
        var decodes = new CudaLaunches(tally, new CudaStep(CudaStepKind.Decode) { Quantises = true });
        Add(() => decodes.Attention(attention with { TokenCount = step.Sequences }, null));
        foreach (var weight in weights.Where(static weight => weight.Shape.Count == 2 && 2 * weight.SectionRows == weight.Rows))
            Add(() => decodes.Linear(new LinearArguments { TokenCount = Math.Min(step.Tokens, 8), Weight = Matrix(weight), SwiGlu = true }));
        return most + tally.Kept;

        static PackedMatrix Matrix(ExportedWeight weight) => new(weight.Format, null, (nint)weight.Rows, (nint)weight.Columns, (nint)weight.SectionRows);
    }

    /// <summary>Launches nothing, and adds up the scratch memory that launches ask for.</summary>
    private sealed unsafe class Tally : ICudaLauncher
    {
        /// <summary>Of no memory: nothing looks there.</summary>
        public static readonly void* Address = (void*)4096;

        public long Bytes { get; set; }
        /// <summary>Those that stay until a step ends.</summary>
        public long Kept { get; private set; }

        public void Launch(string file, string kernel, (int X, int Y, int Z) grid, int threads, int sharedBytes, params ReadOnlySpan<CudaParameter> parameters)
        {
        }

        public void* Scratch(long bytes)
        {
            Bytes += CudaWorkspace.Aligned(bytes);
            return Address;
        }

        public void* Keep(long bytes)
        {
            Kept += CudaWorkspace.Aligned(bytes);
            return Address;
        }
    }
}
