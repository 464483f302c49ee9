namespace Ernie.Cli;

/// <summary>What the process returns; part of the interface that scripts rely on.</summary>
internal static class ExitCode
{
    public const int Success = 0;
    public const int BadInput = 1;
    public const int Usage = 2;
    public const int Cancelled = 130;
}
