using System.Runtime.InteropServices;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Kernels;
using Ernie.Sdk.Operators;
using Microsoft.ML.OnnxRuntime;

namespace Ernie.Sdk.Tests.Operators;

/// <summary>
/// The CUDA operators as they are registered in the product, in a session of a provider that calls itself CUDA's: it has a device with memory of its own and a stream, but the CPU can read that memory.
/// ONNX Runtime decides here what is copied where, and what an operator is handed.
/// </summary>
[Collection(FakeCuda.Collection)]
public sealed unsafe class CudaProviderTests
{
    private const string Registration = "Ernie.Sdk.Tests";
    private static readonly int[] s_prompt = [.. Enumerable.Range(0, 134).Select(static i => i * 7 % 200 + 1)];

    [Fact]
    public void Session_HandsOperatorsDeviceMemory_TheStream_AndWeightsOfTheFile()
    {
        var path = ProviderLibrary();
        var fake = new FakeCuda();
        using var model = new LoadedRunner(new SyntheticWeights(SmallModels.Moe, 4), kernels: new ReferenceKernels(), threads: 1, blocks: 8, precision: ErniePrecision.Int4);
        var expected = model.Logits(s_prompt, 130, 1);
        var library = NativeLibrary.Load(path);
        OrtEnv.Instance().RegisterExecutionProviderLibrary(Registration, path);
        try
        {
            var devices = OrtEnv.Instance().GetEpDevices().Where(static device => device.EpName == CudaOperatorEnvironment.CudaProvider).ToList();
            Assert.Single(devices);
            var isInside = (delegate* unmanaged<nint, int>)NativeLibrary.GetExport(library, "fake_ep_inside");
            var launches = new ReferenceLaunches(fake)
            {
                Stream = ((delegate* unmanaged<nint>)NativeLibrary.GetExport(library, "fake_ep_stream"))(),
                IsProvidersMemory = address => isInside(address) != 0,
            };
            var config = model.Manifest.Config;
            var layout = new KvBlockLayout(KvElementType.Float32, config.KvHeadCount, config.HeadDim);
            using (var environment = new CudaOperatorEnvironment(fake.Device(), launches, layout, new RopeTable(config.HeadDim, config.RopeTheta, config.CompressionRatio, config.ContextLength)))
            {
                using (var session = new OperatorSession(model, environment.Operators(), devices))
                {
                    // Of initializers, those of our operators stay in the file and nothing else is on the device.
                    var (copied, _, taken, _) = Counts(library);
                    Assert.Equal(0, copied);
                    Assert.True(taken > 0);
                    TensorAssert.SameBits(expected, session.Logits(s_prompt, 130, 1), "logits");
                    // One step of 130 tokens and four of one.
                    Assert.Equal((5 * config.LayerCount, 5 * config.MoeLayerCount), (launches.Attentions, launches.ExpertLayers));
                }
                Assert.Equal(2, fake.Live(FakeCuda.Memory));
            }
            fake.AssertNothingIsLeft();
            Assert.Equal(0, Counts(library).Live);
        }
        finally
        {
            OrtEnv.Instance().UnregisterExecutionProviderLibrary(Registration);
        }
    }

    private static (int In, int Out, int Taken, int Live) Counts(nint library)
    {
        int copiedIn, copiedOut, taken, live;
        ((delegate* unmanaged<int*, int*, int*, int*, void>)NativeLibrary.GetExport(library, "fake_ep_counts"))(&copiedIn, &copiedOut, &taken, &live);
        return (copiedIn, copiedOut, taken, live);
    }

    private static string ProviderLibrary() => EmulatedGpu.ProviderLibrary("libfakeprovider.so");
}
