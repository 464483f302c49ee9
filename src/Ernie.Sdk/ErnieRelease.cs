namespace Ernie.Sdk;

/// <summary>Models that Baidu released, by their architecture.</summary>
public enum ErnieRelease
{
    /// <summary>ERNIE 4.5 0.3B, dense.</summary>
    Small03B,

    /// <summary>ERNIE 4.5 21B-A3B and 21B-A3B-Thinking.</summary>
    Medium21B,

    /// <summary>ERNIE 4.5 300B-A47B.</summary>
    Large300B,
}
