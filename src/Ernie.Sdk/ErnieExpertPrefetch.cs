namespace Ernie.Sdk;

/// <summary>Whether weights of experts are read ahead of their use.</summary>
public enum ErnieExpertPrefetch
{
    /// <summary>Where the weight file is larger than the memory that this process may use.</summary>
    Auto,

    /// <summary>Always.</summary>
    On,

    /// <summary>Never.</summary>
    Off,
}
