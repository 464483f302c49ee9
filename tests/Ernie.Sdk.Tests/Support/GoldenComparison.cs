using System.Text.Json;

namespace Ernie.Sdk.Tests.Support;

/// <summary>A model's logits against a golden file's. One comparison serves the tests that must pass and those that must notice a planted bug.</summary>
internal static class GoldenComparison
{
    public const float Tolerance = 1e-4f;
    /// <summary>For the shipped model: the golden data's own distance to float64 is 1.6e-4.</summary>
    public const float TinyTolerance = 5e-4f;

    public static IEnumerable<JsonElement> Sequences(JsonDocument golden) => golden.RootElement.GetProperty("sequences").EnumerateArray();

    /// <summary>Logits of the positions that the golden file holds.</summary>
    public static float[] LogitsOf(LoadedRunner model, JsonElement sequence)
    {
        var from = sequence.TryGetProperty("from_position", out var position) ? position.GetInt32() : 0;
        return model.Logits(Golden.Ints(sequence.GetProperty("input_ids")))[(from * model.Manifest.Config.VocabSize)..];
    }

    /// <summary>Largest logit difference over the first sequences of a file, all unless told otherwise.</summary>
    public static float WorstLogit(LoadedRunner model, JsonDocument golden, int sequences = int.MaxValue) =>
        Sequences(golden).Take(sequences).Max(sequence => Golden.MaxDifference(LogitsOf(model, sequence), Golden.Floats(sequence.GetProperty("logits_f32"))));
}
