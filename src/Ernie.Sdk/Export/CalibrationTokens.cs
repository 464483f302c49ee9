using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Ernie.Sdk.Checkpoints;

namespace Ernie.Sdk.Export;

/// <summary>Texts as token ids, cut into sequences: most are calibrated on, some are held out to measure what quantisation cost.</summary>
internal sealed class CalibrationTokens
{
    /// <summary>Tokens of a sequence.</summary>
    public const int SequenceLength = 512;
    /// <summary>Sequences taken of longer input, spread over all of it.</summary>
    public const int MaxSequences = 20;
    /// <summary>One of this many sequences is held out.</summary>
    private const int HeldOutEvery = 5;
    private const string DefaultText = "Ernie.Sdk.Export.calibration.txt";
    private const long MaxBytes = 64 << 20;

    /// <exception cref="InvalidDataException">There are too few tokens.</exception>
    public CalibrationTokens(IReadOnlyList<int[]> texts, string name, int vocabularySize, int maxSequences = MaxSequences, int sequenceLength = SequenceLength)
    {
        var pieces = new List<int[]>();
        foreach (var text in texts)
        {
            if (Array.FindIndex(text, id => (uint)id >= (uint)vocabularySize) is var wrong and >= 0)
                throw new InvalidDataException($"{name}: token {text[wrong]} does not exist; the model has tokens 0 to {vocabularySize - 1}. Make the ids with the model's own tokenizer, or export without calibration.");
            for (var first = 0; first < text.Length; first += sequenceLength)
            {
                var piece = text[first..Math.Min(text.Length, first + sequenceLength)];
                // A short end says little of how a token is used after others.
                if (piece.Length >= Math.Min(Math.Min(text.Length, sequenceLength), 64)) pieces.Add(piece);
            }
        }
        pieces.RemoveAll(static piece => piece.Length < 2);
        var count = Math.Min(maxSequences, pieces.Count);
        if (count < 2) throw new InvalidDataException($"{name}: calibration needs at least two sequences of 64 tokens or more, one of them to measure with. Give more text.");
        List<int[]> calibration = [], heldOut = [];
        for (var i = 0; i < count; i++)
        {
            var piece = pieces[(int)((long)i * pieces.Count / count)];
            // The last of each five, or the last of few.
            (i % HeldOutEvery == HeldOutEvery - 1 || (i == count - 1 && heldOut.Count == 0) ? heldOut : calibration).Add(piece);
        }
        Name = name;
        (CalibrationIds, CalibrationLengths) = Flat(calibration);
        (HeldOutIds, HeldOutLengths) = Flat(heldOut);
    }

    /// <summary>What results depend on.</summary>
    public string Identity => Convert.ToHexStringLower(SHA256.HashData(MemoryMarshal.AsBytes<int>([CalibrationIds.Length, .. CalibrationLengths, .. CalibrationIds, .. HeldOutLengths, .. HeldOutIds])));

    /// <summary>Where the tokens come from, for messages and reports.</summary>
    public string Name { get; }
    public int[] CalibrationIds { get; }
    public IReadOnlyList<int> CalibrationLengths { get; }
    public int[] HeldOutIds { get; }
    public IReadOnlyList<int> HeldOutLengths { get; }

    /// <summary>The held-out sequences, and the others too if <paramref name="all"/>.</summary>
    public IEnumerable<int[]> Sequences(bool all) => all ? Cut(CalibrationIds, CalibrationLengths).Concat(Cut(HeldOutIds, HeldOutLengths)) : Cut(HeldOutIds, HeldOutLengths);

    /// <summary>Text, or JSON lines <c>{"ids": […]}</c>, which need no tokenizer; null for the text that comes with the library.</summary>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidDataException">The file holds neither, or too little, or the model has no tokenizer to read text with.</exception>
    public static CalibrationTokens Read(string? path, Func<ErnieTokenizer?> tokenizer, ErnieConfig config, int maxSequences = MaxSequences)
    {
        string text;
        if (path is null)
        {
            using var stream = typeof(CalibrationTokens).Assembly.GetManifestResourceStream(DefaultText)!;
            text = new StreamReader(stream, Encoding.UTF8).ReadToEnd();
        }
        else
        {
            var file = new FileInfo(path);
            if (!file.Exists) throw new FileNotFoundException($"There is no calibration file {path}. Name a text file, or JSON lines {{\"ids\": […]}}.", path);
            if (file.Length > MaxBytes) throw new InvalidDataException($"{path} has {file.Length:N0} bytes; calibration takes at most {MaxBytes:N0} and uses a few thousand tokens of them. Give less text.");
            try
            {
                text = File.ReadAllText(path, new UTF8Encoding(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true));
            }
            catch (DecoderFallbackException e)
            {
                throw new InvalidDataException($"{path} is no UTF-8 text: {e.Message} Name a text file, or JSON lines {{\"ids\": […]}}.", e);
            }
            if (text.Contains('\0', StringComparison.Ordinal)) throw new InvalidDataException($"{path} is no text: it holds zero bytes. Name a text file, or JSON lines {{\"ids\": […]}}.");
        }
        var name = path ?? "default text";
        // Positions beyond the context have no rotation.
        var sequenceLength = Math.Min(SequenceLength, config.ContextLength);
        if (HoldsIds(text)) return new CalibrationTokens(Ids(text, name), name, config.VocabSize, maxSequences, sequenceLength);
        var encoder = tokenizer() ?? throw new InvalidDataException($"{name}: the checkpoint has no tokenizer that could read text. Give token ids, JSON lines {{\"ids\": […]}}.");
        // Texts end at a line of three dashes, so that no sequence runs from one into the next.
        return new CalibrationTokens([.. text.ReplaceLineEndings("\n").Split("\n---\n").Select(part => encoder.EncodeToIds(part).ToArray())], name, config.VocabSize, maxSequences, sequenceLength);
    }

    /// <summary>Whether the first line is a JSON object with the key "ids", whatever else it holds.</summary>
    private static bool HoldsIds(string text)
    {
        var first = text.AsSpan().TrimStart();
        if (first.IsEmpty || first[0] != '{') return false;
        if (first.IndexOf('\n') is var end and >= 0) first = first[..end];
        try
        {
            using var json = JsonDocument.Parse(first.ToString());
            return json.RootElement.TryGetProperty("ids", out _);
        }
        catch (JsonException)
        {
            return false;
        }
    }

    private static List<int[]> Ids(string text, string name)
    {
        var texts = new List<int[]>();
        var number = 0;
        foreach (var line in text.Split('\n'))
        {
            number++;
            if (string.IsNullOrWhiteSpace(line)) continue;
            try
            {
                using var json = JsonDocument.Parse(line);
                texts.Add([.. json.RootElement.GetProperty("ids").EnumerateArray().Select(static id => id.GetInt32())]);
            }
            catch (Exception e) when (e is JsonException or InvalidOperationException or KeyNotFoundException or FormatException)
            {
                throw new InvalidDataException($"{name}, line {number}: expected {{\"ids\": [1, 2, …]}}: {e.Message}", e);
            }
        }
        return texts;
    }

    private static IEnumerable<int[]> Cut(int[] ids, IReadOnlyList<int> lengths)
    {
        var first = 0;
        foreach (var length in lengths)
        {
            yield return ids[first..(first + length)];
            first += length;
        }
    }

    private static (int[] Ids, int[] Lengths) Flat(List<int[]> sequences) => ([.. sequences.SelectMany(static s => s)], [.. sequences.Select(static s => s.Length)]);
}
