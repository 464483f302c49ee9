namespace Ernie.Sdk.Engine;

/// <summary>What the engine holds between two steps.</summary>
/// <param name="Running">Requests that are computed.</param>
/// <param name="Waiting">Requests that are not admitted yet.</param>
/// <param name="FreeBlocks">Blocks of the cache that no context holds, idle ones included.</param>
/// <param name="IdleBlocks">Blocks that are kept for prompts to come.</param>
/// <param name="Preemptions">How often a request lost its memory to an older one, since the beginning.</param>
internal sealed record EngineState(int Running, int Waiting, int FreeBlocks, int IdleBlocks, long Preemptions);
