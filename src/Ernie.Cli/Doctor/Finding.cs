namespace Ernie.Cli.Doctor;

/// <summary>How something that was looked at is.</summary>
internal enum FindingState
{
    /// <summary>As it should be, or only to know.</summary>
    Fine,

    /// <summary>Not there, but nothing of this version needs it.</summary>
    Absent,

    /// <summary>Works, not as well as it could.</summary>
    Poor,

    /// <summary>No model can be run.</summary>
    Broken,
}

/// <summary>One thing that was looked at.</summary>
/// <param name="Name">What was looked at.</param>
/// <param name="State">How it is.</param>
/// <param name="Text">What was found.</param>
/// <param name="Cure">What to do about it, where something can be done.</param>
internal sealed record Finding(string Name, FindingState State, string Text, string? Cure = null);
