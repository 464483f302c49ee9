using Ernie.Sdk.GpuTests.Checks;

namespace Ernie.Sdk.Tests.Support;

internal static class FindingsAssert
{
    /// <summary>The check compares something and finds nothing wrong.</summary>
    public static void None(Action<Findings> check)
    {
        var findings = new Findings();
        check(findings);
        Assert.True(findings.Problem is null, findings.Problem);
        Assert.True(findings.Count > 0, "Nothing was compared.");
    }
}
