using PublicApiGenerator;

namespace Ernie.Sdk.Tests;

public sealed class PublicApiTests
{
    [Fact]
    public void PublicApi_IsTheApprovedOne() =>
        Approved.Equal("PublicApi.approved.txt", typeof(ErnieModel).Assembly.GeneratePublicApi(new ApiGeneratorOptions { IncludeAssemblyAttributes = false }));

    [Fact]
    public void PublicTypes_StandInOneNamespace() => Assert.All(typeof(ErnieModel).Assembly.GetExportedTypes(), static type => Assert.Equal("Ernie.Sdk", type.Namespace));
}
