using Ernie.Cli.Measuring;
using Ernie.Cli.Measuring.Cards;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Kernels;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>Whole steps on a GPU attend with the recipe's queries, which lie where captured steps find them.</summary>
[Collection(FakeCuda.Collection)]
public sealed unsafe class CardRecipeKernelsTests
{
    [Fact]
    public void AttentionReadsTheRecipesRows_AndTheModelsStayAsTheyAre()
    {
        var config = ReleasedShapes.Medium21B with { HeadCount = 4, KvHeadCount = 2, HeadDim = 16 };
        var driver = new FakeCuda();
        driver.Describe();
        using (var context = driver.Device().Retain())
        using (var stream = context.CreateStream())
        using (var rows = context.Allocate(CardRecipeKernels.Bytes(config, 6)))
        {
            var seen = new SeenKernels();
            var model = 1f;
            new CardRecipeKernels(seen, rows).Attention(new AttentionArguments { Qkv = &model, TokenCount = 6 }, default);
            Assert.Equal((rows.Address, 6), (seen.Qkv, seen.Tokens));
            Assert.Equal(1f, model);

            CardRecipeKernels.Fill(rows, stream, config, sequences: 2, tokens: 3, position: 500);
            var values = new float[6 * config.QkvSize];
            fixed (float* to = values) rows.CopyTo(to, rows.Bytes, 0, stream);
            stream.Synchronize();
            var expected = new float[config.QkvSize];
            for (var token = 0; token < 6; token++)
            {
                new SegmentRecipe(4, 2, 16, 1).Token(500 + token % 3, expected);
                Assert.Equal(expected, values[(token * config.QkvSize)..((token + 1) * config.QkvSize)]);
            }
        }
        driver.AssertNothingIsLeft();
    }

    private sealed class SeenKernels : CudaKernels
    {
        public nint Qkv { get; private set; }
        public int Tokens { get; private set; }

        public override void Attention(in AttentionArguments arguments, in CudaKernelContext context) => (Qkv, Tokens) = ((nint)arguments.Qkv, arguments.TokenCount);
        public override void AddRmsNorm(in AddRmsNormArguments arguments, in CudaKernelContext context) => throw new NotSupportedException();
        public override void Linear(in LinearArguments arguments, in CudaKernelContext context) => throw new NotSupportedException();
        public override void Experts(in ExpertsArguments arguments, in CudaKernelContext context) => throw new NotSupportedException();
        public override void Route(in ExpertsArguments arguments, in CudaKernelContext context) => throw new NotSupportedException();
        public override void AddPartial(float* part, in ExpertsArguments arguments, in CudaKernelContext context) => throw new NotSupportedException();
    }
}
