namespace Ernie.Sdk.Checkpoints;

/// <summary>Upper bounds on what a <c>config.json</c> may ask for: far above any model, low enough that products of two fit in 63 bits. Arbitrary.</summary>
internal static class ErnieConfigLimits
{
    public const int Layers = 4096;
    public const int Heads = 65_536;
    public const int HeadDim = 65_536;
    public const int Experts = 4096;
    public const int Width = 16_777_216;
    public const int Vocabulary = 16_777_216;
    public const int ContextLength = 1 << 30;
    public const int StopTokens = 1024;
}
