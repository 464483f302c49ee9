using Ernie.Sdk.Hosting;
using PublicApiGenerator;

namespace Ernie.Sdk.Tests;

public sealed class PublicApiTests
{
    [Fact]
    public void PublicApi_IsTheApprovedOne() => AssertApproved("PublicApi.approved.txt", typeof(ErnieModel));

    [Fact]
    public void PublicApi_OfTheHostingPackage_IsTheApprovedOne() => AssertApproved("PublicApi.Hosting.approved.txt", typeof(ErnieHostingOptions));

    [Fact]
    public void PublicTypes_StandInOneNamespace() => Assert.All(typeof(ErnieModel).Assembly.GetExportedTypes(), static type => Assert.Equal("Ernie.Sdk", type.Namespace));

    private static void AssertApproved(string file, Type type) => Approved.Equal(file, type.Assembly.GeneratePublicApi(new ApiGeneratorOptions { IncludeAssemblyAttributes = false, DenyNamespacePrefixes = [] }));
}
