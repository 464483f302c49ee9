using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Export;

namespace Ernie.Sdk.Fuzz;

internal static class FuzzReaders
{
    private const string File = "input";

    public static IReadOnlyList<FuzzReader> All { get; } =
    [
        new("safetensors", FuzzSeeds.Headers, static bytes => SafetensorsHeader.Parse(bytes, FuzzSeeds.DataLength, File)),
        new("index", FuzzSeeds.Indexes, static bytes => ShardIndex.Parse(bytes, File)),
        new("config", FuzzSeeds.Configs, static bytes => CheckpointReport.Lines(ErnieConfigReader.Parse(bytes, File, []))),
        new("generation", FuzzSeeds.Generations, static bytes => GenerationDefaults.Parse(bytes, File)),
        new("binding", FuzzSeeds.Headers, static bytes => BindHeader(bytes)),
        new("binding-config", FuzzSeeds.Configs, static bytes => BindConfig(bytes)),
        new("binding-2bits", [FuzzSeeds.TwoBitsHeader], static bytes => Bind(bytes, FuzzSeeds.TwoBitsDataLength, FuzzSeeds.TwoBitsConfig)),
        new("binding-2bits-config", [FuzzSeeds.TwoBitsConfig], static bytes => Bind(FuzzSeeds.TwoBitsHeader, FuzzSeeds.TwoBitsDataLength, bytes)),
        .. FuzzSample.Find() is { } sample ? [new FuzzReader("sample", [sample.Header], bytes => Bind(bytes, sample.DataLength, sample.Config))] : Array.Empty<FuzzReader>(),
        new("manifest", FuzzSeeds.Manifests, static bytes => ModelManifest.Parse(bytes, File)),
        // An encoder keeps a table of symbols and a cache of words whatever the vocabulary's size.
        new("tokenizer", TokenizerSeeds.Models, TokenizerSeeds.ReadModel) { IsJson = false, MaxAllocated = 16_000_000, MaxAllocatedPerByte = 2000 },
        new("added-tokens", TokenizerSeeds.AddedTokens, static bytes => TokenizerSeeds.ReadSideFile("added_tokens.json", bytes)) { MaxAllocated = 16_000_000, MaxAllocatedPerByte = 2000 },
        new("tokenizer-config", TokenizerSeeds.Configurations, static bytes => TokenizerSeeds.ReadSideFile("tokenizer_config.json", bytes)) { MaxAllocated = 16_000_000, MaxAllocatedPerByte = 2000 },
    ];

    // As Checkpoint.Open does, without files.
    private static void BindHeader(byte[] header) => Bind(header, FuzzSeeds.DataLength, FuzzSeeds.TinyConfig);

    private static void BindConfig(byte[] config)
    {
        foreach (var header in FuzzSeeds.Headers) Bind(header, FuzzSeeds.DataLength, config);
    }

    private static void Bind(byte[] header, long dataLength, byte[] json)
    {
        var notes = new List<string>();
        var stored = new StoredTensors();
        foreach (var entry in SafetensorsHeader.Parse(header, dataLength, File)) stored.Add(new StoredTensor(null, File, entry));
        Wint2Config? quantization;
        using (var keys = JsonKeys.Parse(json, "config.json")) quantization = Wint2Config.Read(keys, notes);
        if (quantization is null) UnknownTensors.ThrowIfQuantised(stored);
        var config = ErnieConfigReader.Parse(json, "config.json", notes, CheckpointFacts.Of(stored));
        new TensorBinder(stored, config, File, quantization).Bind(notes);
        foreach (var line in CheckpointReport.Lines(config)) notes.Add(line);
    }
}
