namespace Ernie.Sdk.Tests.Support;

/// <summary>Options of exports in tests that are not about precision.</summary>
internal static class ExportAs
{
    /// <summary>What checkpoints hold: exact, and made in no time.</summary>
    public static ErnieExportOptions BFloat16 => new() { Experts = ErniePrecision.BFloat16, Dense = ErniePrecision.BFloat16 };
}
