using System.Runtime.InteropServices;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Native;
using Ernie.Sdk.Operators;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.Tests.Operators;

/// <summary>
/// The CUDA operators without a GPU: their tables as ONNX Runtime reads them, and whole models through them. For the latter they are typed for the CPU provider, whose memory is also that of the driver
/// without a GPU, and launch reference kernels: what is checked is everything around a launch, not a kernel.
/// </summary>
[Collection(FakeCuda.Collection)]
public sealed unsafe class CudaOperatorTests : IDisposable
{
    private static readonly int[] s_prompt = [.. Enumerable.Range(0, 134).Select(static i => i * 7 % 200 + 1)];

    private readonly FakeCuda _fake = new();
    private readonly LoadedRunner _model = new(new SyntheticWeights(SmallModels.Moe, 4), kernels: new ReferenceKernels(), threads: 1, blocks: 8, precision: ErniePrecision.Int4);

    public void Dispose() => _model.Dispose();

    [Fact]
    public void Tables_NameTheProvider_AndLeaveWeightsToTheCpu()
    {
        using var environment = Environment(new ReferenceLaunches(_fake), CudaOperatorEnvironment.CudaProvider);
        using var domain = new CustomOperatorDomain(OperatorSchema.Domain, environment.Operators());
        var found = domain.Tables.Select(static address =>
        {
            var op = (OrtCustomOp*)address;
            return (Name: Marshal.PtrToStringUTF8((nint)op->GetName(op)), Provider: Marshal.PtrToStringUTF8((nint)op->GetExecutionProviderType(op)), Memory: Enumerable.Range(0, (int)op->GetInputTypeCount(op)).Select(i => MemoryOf(address, i)).ToArray());
        }).ToArray();
        Assert.Equal(["AddRmsNorm", "Linear", "SparseAttention", "MoeExperts"], found.Select(static op => op.Name));
        Assert.All(found, static op => Assert.Equal("CUDAExecutionProvider", op.Provider));
        // OrtMemTypeCPUInput is -2.
        Assert.Equal([0, -2, 0, 0], found[0].Memory);
        Assert.Equal([0, -2], found[1].Memory);
        Assert.Equal([0, 0, 0, 0, 0, 0, 0, 0], found[2].Memory);
        Assert.Equal([0, -2, -2, -2, -2], found[3].Memory);

        static int MemoryOf(nint table, int input) => ((OrtCustomOp*)table)->GetInputMemoryType((OrtCustomOp*)table, (nuint)input);
    }

    [Fact]
    public void Tables_OfTheCpu_NameNoProvider()
    {
        using var environment = CpuEnvironment();
        using var domain = new CustomOperatorDomain(OperatorSchema.Domain, environment.Operators());
        Assert.All(domain.Tables, static address =>
        {
            var op = (OrtCustomOp*)address;
            Assert.True(op->GetExecutionProviderType(op) == null);
            for (nuint i = 0; i < op->GetInputTypeCount(op); i++) Assert.Equal(0, op->GetInputMemoryType(op, i));
        });
    }

    [Fact]
    public void Model_ThroughTheOperators_HasTheSameBits()
    {
        var expected = _model.Logits(s_prompt, 130, 1);
        var launches = new ReferenceLaunches(_fake);
        using (var environment = Environment(launches, provider: null))
        {
            using (var run = new OperatorSession(_model, environment.Operators(), provider: null))
            {
                environment.EndUpload();
                Assert.Equal(0, _fake.Live(FakeCuda.Pinned));
                TensorAssert.SameBits(expected, run.Logits(s_prompt, 130, 1), "logits");
            }
            // With the session its kernels went, and their weights; the angles and the workspace are the environment's.
            Assert.Equal(2, _fake.Live(FakeCuda.Memory));
        }
        _fake.AssertNothingIsLeft();
        Assert.True(launches is { Linears: > 0, Attentions: > 0, ExpertLayers: > 0 });
    }

    [Fact]
    public void OperatorsOfBothProviders_LieInOneDomain_AndTheCpusRunHere()
    {
        var expected = _model.Logits(s_prompt);
        using var cpu = CpuEnvironment();
        using var cuda = Environment(new ReferenceLaunches(_fake), CudaOperatorEnvironment.CudaProvider);
        using (var run = new OperatorSession(_model, cpu.Operators().Concat(cuda.Operators()), provider: null)) TensorAssert.SameBits(expected, run.Logits(s_prompt), "logits");
        Assert.DoesNotContain("cuLaunchKernel", _fake.Calls);
    }

    [Fact]
    public void CudaOperatorsAlone_AreRefusedByAnOnnxRuntimeWithoutCuda()
    {
        Assert.SkipWhen(OrtEnv.Instance().GetAvailableProviders().Contains("CUDAExecutionProvider"), "This ONNX Runtime knows CUDA.");
        using (var environment = Environment(new ReferenceLaunches(_fake), CudaOperatorEnvironment.CudaProvider))
        {
            var e = Assert.Throws<OnnxRuntimeException>(() => new OperatorSession(_model, environment.Operators(), provider: null));
            Assert.Contains("implementation", e.Message, StringComparison.Ordinal);
        }
        _fake.AssertNothingIsLeft();
    }

    [Fact]
    public void GpuThatFillsUp_FailsTheSession_AndNothingIsLeft()
    {
        var failures = 0;
        // Every allocation of the session in turn, with a stride that keeps the test short.
        for (var nth = 1; ; nth += 7)
        {
            using (var environment = Environment(new ReferenceLaunches(_fake), provider: null))
            {
                _fake.Fail("cuMemAlloc_v2", CudaResult.OutOfMemory, nth);
                try
                {
                    using var run = new OperatorSession(_model, environment.Operators(), provider: null);
                    break;
                }
                catch (OnnxRuntimeException e)
                {
                    failures++;
                    Assert.Contains("CUDA_ERROR_OUT_OF_MEMORY", e.Message, StringComparison.Ordinal);
                }
            }
            _fake.AssertNothingIsLeft();
        }
        Assert.True(failures > 2);
        _fake.Fail("", CudaResult.Success);
        _fake.AssertNothingIsLeft();
    }

    [Theory]
    [InlineData("cuDevicePrimaryCtxRetain", 1)]
    [InlineData("cuStreamCreate", 1)]
    [InlineData("cuMemHostRegister_v2", 1)]
    [InlineData("cuMemHostRegister_v2", 2)]
    [InlineData("cuEventCreate", 2)]
    [InlineData("cuMemAlloc_v2", 1)]
    [InlineData("cuMemcpyHtoDAsync_v2", 1)]
    [InlineData("cuEventRecord", 1)]
    [InlineData("cuEventSynchronize", 1)]
    [InlineData("cuStreamSynchronize", 1)]
    public void EnvironmentThatFails_LeavesNothing(string call, int nth)
    {
        _fake.Driver.Start();
        _fake.Fail(call, CudaResult.OutOfMemory, nth);
        Assert.Throws<CudaException>(() => Environment(new ReferenceLaunches(_fake), provider: null));
        _fake.AssertNothingIsLeft();
    }

    [Fact]
    public void LaunchThatFails_FailsTheStep_AndTheNextOneRuns()
    {
        var launches = new ReferenceLaunches(_fake);
        using var environment = Environment(launches, provider: null);
        using var run = new OperatorSession(_model, environment.Operators(), provider: null);
        var expected = run.Logits(s_prompt);
        launches.Fails = true;
        Assert.Contains("launch", Assert.Throws<OnnxRuntimeException>(() => run.Logits(s_prompt)).Message, StringComparison.Ordinal);
        launches.Fails = false;
        TensorAssert.SameBits(expected, run.Logits(s_prompt), "logits");
    }

    [Fact]
    public void Workspace_HoldsTheLargestCall_AndIsOnePieceAfterAStep()
    {
        using (var context = _fake.Device().Retain())
        using (var workspace = new CudaWorkspace(context))
        {
            var first = (nint)workspace.Rent(5);
            Assert.Equal(256, (nint)workspace.Rent(1) - first);
            workspace.Reset();
            Assert.Equal(first, (nint)workspace.Rent(1 << 20));
            // What was rented before stays while the call lasts.
            var second = (nint)workspace.Rent(3 << 20);
            Assert.NotEqual(first, second);
            Assert.Equal(2, _fake.Live(FakeCuda.Memory));
            workspace.Join();
            Assert.Equal((1, 4L << 20), (_fake.Live(FakeCuda.Memory), workspace.Bytes));
            workspace.Rent(4 << 20);
            _fake.Fail("cuMemAlloc_v2", CudaResult.OutOfMemory);
            Assert.Throws<CudaException>(() => (nint)workspace.Rent(1));
            workspace.Reset();
            workspace.Rent(4 << 20);
            Assert.Equal(1, _fake.Live(FakeCuda.Memory));
        }
        _fake.AssertNothingIsLeft();
    }

    [Fact]
    public void Upload_CutsLargeTensorsInPieces()
    {
        const int Bytes = 40 << 20;
        using (var context = _fake.Device().Retain())
        using (var upload = new CudaUpload(context))
        {
            var data = new byte[Bytes];
            new Random(5).NextBytes(data);
            fixed (byte* d = data)
            {
                using var memory = upload.Send(d, Bytes - 3);
                Assert.True(new ReadOnlySpan<byte>(d, Bytes - 3).SequenceEqual(new ReadOnlySpan<byte>((void*)memory.Address, Bytes - 3)));
                Assert.Equal(3, _fake.Calls.Count(static call => call == "cuMemcpyHtoDAsync_v2"));
                Assert.Equal(Bytes - 3, upload.Bytes);
                // The third piece waits until the first has left its buffer.
                _fake.Fail("cuEventSynchronize", (CudaResult)700, 3);
                Assert.Throws<CudaException>(() => upload.Send((byte*)memory.Address, Bytes - 3));
                Assert.Equal(1, _fake.Live(FakeCuda.Memory));
            }
        }
        _fake.AssertNothingIsLeft();
    }

    private CudaOperatorEnvironment Environment(CudaKernels launches, string? provider)
    {
        var config = _model.Manifest.Config;
        var rope = new RopeTable(config.HeadDim, config.RopeTheta, config.CompressionRatio, config.ContextLength);
        return new CudaOperatorEnvironment(_fake.Device(), launches, Layout, rope, provider: provider);
    }

    private OperatorEnvironment CpuEnvironment()
    {
        var config = _model.Manifest.Config;
        var load = new ExpertLoad(Enumerable.Range(0, config.LayerCount).Where(config.IsMoeLayer).Select(static layer => (layer, ErnieGraph.ExpertsNode(layer))), config.ExpertCount, config.ExpertsPerToken);
        return new OperatorEnvironment(new ReferenceKernels(), Layout, new RopeTable(config.HeadDim, config.RopeTheta, config.CompressionRatio, config.ContextLength), 1, load, null);
    }

    private KvBlockLayout Layout => new(KvElementType.Float32, _model.Manifest.Config.KvHeadCount, _model.Manifest.Config.HeadDim);
}
