using System.Runtime.CompilerServices;

namespace Ernie.Sdk.Chat.Templates.Jinja;

/// <summary>What one rendering may cost. Templates come with checkpoints from anywhere: none may hang the host or fill its memory.</summary>
internal sealed class JinjaLimits
{
    /// <summary>Longest text and list. A prompt of 131,072 tokens has less than a million characters.</summary>
    public const int MaximumLength = 32 << 20;
    public const int MaximumRange = 100_000;
    public const int MaximumIntegerBits = 4096;
    private const long MaximumSteps = 10_000_000;
    private const long MaximumCharacters = 1L << 30;

    // Every comparison and copy of a value pays, down to the items of lists in lists. A rendering is one synchronous call.
    [ThreadStatic]
    private static JinjaLimits? t_current;

    private long _steps;
    private long _characters;

    /// <summary>Starts a budget, which <see cref="Step"/> and <see cref="Read"/> take from until the rendering returns.</summary>
    public static T Within<T>(Func<T> render)
    {
        var outer = t_current;
        t_current = new JinjaLimits();
        try
        {
            return render();
        }
        finally
        {
            t_current = outer;
        }
    }

    /// <summary>Pays for evaluated nodes and items of lists.</summary>
    public static void Step(int count = 1)
    {
        if (t_current is { } limits && (limits._steps += count) > MaximumSteps) throw new JinjaException($"the template takes more than {MaximumSteps} steps");
    }

    /// <summary>Pays for characters that are read or copied.</summary>
    public static void Read(int length)
    {
        if (t_current is { } limits && (limits._characters += length) > MaximumCharacters) throw new JinjaException($"the template handles more than {MaximumCharacters} characters");
    }

    public static void CheckLength(long length)
    {
        if (length > MaximumLength) throw new JinjaException($"the template makes a text or list of {length} elements; the limit is {MaximumLength}");
    }

    /// <summary>Called by whatever calls itself: pays a step, and looks for the end of the stack.</summary>
    public static void Descend()
    {
        Step();
        if (!RuntimeHelpers.TryEnsureSufficientExecutionStack()) throw new JinjaException("the template or its data is nested too deeply");
    }
}
