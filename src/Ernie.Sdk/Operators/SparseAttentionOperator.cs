using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;

namespace Ernie.Sdk.Operators;

internal sealed class SparseAttentionOperator(OperatorEnvironment environment) : CustomOperator
{
    public override string Name => OperatorSchema.SparseAttention.Name;
    public override IReadOnlyList<Port> Inputs => OperatorSchema.SparseAttention.Inputs;
    public override IReadOnlyList<Port> Outputs => OperatorSchema.SparseAttention.Outputs;

    public override CustomKernel CreateKernel(OrtKernelInfo info) => new Kernel(environment, info);

    private sealed unsafe class Kernel : CustomKernel
    {
        private readonly OperatorEnvironment _environment;
        private readonly AttentionArguments _template;
        private readonly int _qkvSize;
        private readonly int _outputSize;

        public Kernel(OperatorEnvironment environment, OrtKernelInfo info)
        {
            _environment = environment;
            var template = new AttentionArguments
            {
                HeadCount = info.Int(OperatorSchema.SparseAttention.HeadCount),
                KvHeadCount = info.Int(OperatorSchema.SparseAttention.KvHeadCount),
                HeadDim = info.Int(OperatorSchema.SparseAttention.HeadDim),
                KvHeadBegin = info.Int(OperatorSchema.SparseAttention.KvHeadBegin),
                KvHeadEnd = info.Int(OperatorSchema.SparseAttention.KvHeadEnd),
                DensePrefill = info.TryInt(OperatorSchema.SparseAttention.DensePrefill) is not (null or 0),
                Layout = environment.Layout,
                Rope = environment.Rope,
            };
            if (template.KvHeadCount < 1 || template.HeadCount % template.KvHeadCount != 0 || template.HeadDim < 2 || template.HeadDim % 2 != 0
                || template.KvHeadCount != environment.Layout.KvHeadCount || template.HeadDim != environment.Layout.HeadDim)
                throw new InvalidDataException($"Node {info.NodeName}: {template.HeadCount} heads on {template.KvHeadCount} of {template.HeadDim} do not fit the manifest. Export the checkpoint again.");
            if (template.KvHeadBegin < 0 || template.KvHeadEnd > template.KvHeadCount || template.KvHeadBegin >= template.KvHeadEnd)
                throw new InvalidDataException($"Node {info.NodeName}: the head range [{template.KvHeadBegin}, {template.KvHeadEnd}) is not inside 0..{template.KvHeadCount}.");
            _qkvSize = (template.HeadCount + 2 * template.KvHeadCount) * template.HeadDim;
            _outputSize = (template.KvHeadEnd - template.KvHeadBegin) * (template.HeadCount / template.KvHeadCount) * template.HeadDim;
            _template = template;
        }

        public override void Compute(OrtComputeContext context)
        {
            var qkv = context.Input(0);
            var positions = context.Input(1);
            var starts = context.Input(2);
            var flags = context.Input(3);
            var tables = context.Input(4);
            var limits = context.Input(5);
            var pool = context.Input(6);
            var gate = context.Input(7);
            if (qkv.Rank != 2 || qkv[1] != _qkvSize) throw new ArgumentException($"qkv must be [tokens, {_qkvSize}].");
            if (pool.Rank != 2 || pool[1] != _environment.Layout.BlockBytes) throw new ArgumentException($"kv_cache must be [blocks, {_environment.Layout.BlockBytes}].");

            if (gate.IsPresent && !gate.Shape.SequenceEqual([_template.KvHeadCount, KvBlockLayout.BlockSize, _template.HeadDim]))
                throw new ArgumentException($"attn_gate must be [{_template.KvHeadCount}, {KvBlockLayout.BlockSize}, {_template.HeadDim}].");

            var arguments = _template;
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
            arguments.Output = (float*)context.Output(0, qkv[0], _outputSize);
            if (arguments.TokenCount > 0) _environment.Kernels.Attention(arguments, _environment.Enter(context));
        }
    }
}
