namespace Ernie.Sdk.Engine;

/// <summary>
/// Keeps captures of CUDA graphs and the creation of sessions apart, over all models of the process: ONNX Runtime's CUDA provider waits for the whole GPU when it is created, and as long as a stream of it is being captured that
/// is an error, of the one who waits or of both.
/// </summary>
internal static class GraphCaptures
{
    private static readonly object s_gate = new();
    private static int s_captures, s_creations;

    /// <summary>False while a session is being created: the step can be an ordinary one, and a later one captured. Otherwise <see cref="End"/> follows.</summary>
    public static bool TryBegin()
    {
        lock (s_gate)
        {
            if (s_creations > 0) return false;
            s_captures++;
            return true;
        }
    }

    public static void End()
    {
        lock (s_gate)
        {
            s_captures--;
            Monitor.PulseAll(s_gate);
        }
    }

    /// <summary>Creates something while nothing is captured. Captures that run are waited for: they last as long as a step.</summary>
    public static T Without<T>(Func<T> create)
    {
        lock (s_gate)
        {
            while (s_captures > 0) Monitor.Wait(s_gate);
            s_creations++;
        }
        try
        {
            return create();
        }
        finally
        {
            lock (s_gate) s_creations--;
        }
    }
}
