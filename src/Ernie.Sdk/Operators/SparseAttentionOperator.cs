using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

internal sealed class SparseAttentionOperator(OperatorEnvironment environment) : CustomOperator
{
    public override string Name => OperatorSchema.SparseAttention.Name;
    public override IReadOnlyList<Port> Inputs => OperatorSchema.SparseAttention.Inputs;
    public override IReadOnlyList<Port> Outputs => OperatorSchema.SparseAttention.Outputs;

    public override CustomKernel CreateKernel(OrtKernelInfo info) => new Kernel(environment, info);

    /// <summary>What a node says of itself.</summary>
    public static AttentionArguments Read(OrtKernelInfo info, KvBlockLayout layout, RopeTable rope)
    {
        var node = new AttentionArguments
        {
            HeadCount = info.Int(OperatorSchema.SparseAttention.HeadCount),
            KvHeadCount = info.Int(OperatorSchema.SparseAttention.KvHeadCount),
            HeadDim = info.Int(OperatorSchema.SparseAttention.HeadDim),
            KvHeadBegin = info.Int(OperatorSchema.SparseAttention.KvHeadBegin),
            KvHeadEnd = info.Int(OperatorSchema.SparseAttention.KvHeadEnd),
            DensePrefill = info.TryInt(OperatorSchema.SparseAttention.DensePrefill) is not (null or 0),
            Layout = layout,
            Rope = rope,
        };
        if (node.KvHeadCount < 1 || node.HeadCount % node.KvHeadCount != 0 || node.HeadDim < 2 || node.HeadDim % 2 != 0 || node.KvHeadCount != layout.KvHeadCount || node.HeadDim != layout.HeadDim)
            throw new InvalidDataException($"Node {info.NodeName}: {node.HeadCount} heads on {node.KvHeadCount} of {node.HeadDim} do not fit the manifest. Export the checkpoint again.");
        if (node.KvHeadBegin < 0 || node.KvHeadEnd > node.KvHeadCount || node.KvHeadBegin >= node.KvHeadEnd)
            throw new InvalidDataException($"Node {info.NodeName}: the head range [{node.KvHeadBegin}, {node.KvHeadEnd}) is not inside 0..{node.KvHeadCount}.");
        return node;
    }

    /// <summary>Adds what one call has: tokens, sequences, cache and output, all on the provider's device.</summary>
    public static unsafe AttentionArguments Bind(in AttentionArguments node, OrtComputeContext context)
    {
        var qkv = context.Input(0);
        var positions = context.Input(1);
        var starts = context.Input(2);
        var flags = context.Input(3);
        var tables = context.Input(4);
        var limits = context.Input(5);
        var pool = context.Input(6);
        var gate = context.Input(7);
        var qkvSize = (node.HeadCount + 2 * node.KvHeadCount) * node.HeadDim;
        if (qkv.Rank != 2 || qkv[1] != qkvSize) throw new ArgumentException($"qkv must be [tokens, {qkvSize}].");
        if (pool.Rank != 2 || pool[1] != node.Layout.BlockBytes) throw new ArgumentException($"kv_cache must be [blocks, {node.Layout.BlockBytes}].");
        if (gate.IsPresent && !gate.Shape.SequenceEqual([node.KvHeadCount, KvBlockLayout.BlockSize, node.HeadDim]))
            throw new ArgumentException($"attn_gate must be [{node.KvHeadCount}, {KvBlockLayout.BlockSize}, {node.HeadDim}].");

        var arguments = node;
        arguments.Gate = gate.IsPresent ? (float*)gate.Data : null;
        arguments.Qkv = (float*)qkv.Data;
        arguments.TokenCount = checked((int)qkv[0]);
        arguments.Positions = (int*)positions.Data;
        arguments.SequenceStarts = (int*)starts.Data;
        arguments.SequenceCount = checked((int)flags.Count);
        arguments.Flags = (int*)flags.Data;
        arguments.BlockTables = (int*)tables.Data;
        arguments.BlockTableStride = tables.Rank == 2 ? checked((int)tables[1]) : 0;
        arguments.Limits = (SparseLimits*)limits.Data;
        arguments.Pool = (byte*)pool.Data;
        arguments.PoolBlockCount = checked((int)pool[0]);
        if (positions.Count != arguments.TokenCount || starts.Count != arguments.SequenceCount + 1 || tables.Rank != 2 || tables[0] != arguments.SequenceCount
            || limits.Count != (long)arguments.SequenceCount * SparseLimits.Count)
            throw new ArgumentException("positions, sequence_starts, sequence_flags, block_tables and sparse_limits disagree about the number of tokens or sequences.");
        arguments.Output = (float*)context.Output(0, qkv[0], (node.KvHeadEnd - node.KvHeadBegin) * (node.HeadCount / node.KvHeadCount) * node.HeadDim);
        return arguments;
    }

    private sealed class Kernel(OperatorEnvironment environment, OrtKernelInfo info) : CustomKernel
    {
        private readonly AttentionArguments _node = Read(info, environment.Layout, environment.Rope);

        public override void Compute(OrtComputeContext context)
        {
            var arguments = Bind(_node, context);
            if (arguments.TokenCount > 0) environment.Kernels.Attention(arguments, environment.Enter(context));
        }
    }
}
