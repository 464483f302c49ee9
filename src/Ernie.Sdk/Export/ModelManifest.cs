using System.Text.Json;
using System.Text.Json.Serialization;
using Ernie.Sdk.Checkpoints;
using Ernie.Sdk.Quantization;

namespace Ernie.Sdk.Export;

/// <summary>What <c>ernie.json</c> of an exported model says. It is written last: a folder without it is no exported model.</summary>
internal sealed record ModelManifest
{
    public const string FileName = "ernie.json";
    public const string ModelFile = "model.onnx";
    public const string WeightFile = "model.weights";
    /// <summary>Raised when kernels and older exports would no longer understand each other.</summary>
    public const int CurrentVersion = 4;
    private const int MaxBytes = 64 << 20;

    public required int FormatVersion { get; init; }
    public required string Name { get; init; }
    public required string Producer { get; init; }
    public required ModelFormats Formats { get; init; }
    public required bool DebugOutputs { get; init; }
    public required ErnieConfig Config { get; init; }
    /// <summary>Length of the weight file in bytes.</summary>
    public required long WeightBytes { get; init; }
    public required IReadOnlyList<ManifestTensor> Tensors { get; init; }
    /// <summary>Every other file of the folder, <c>model.onnx</c> among them.</summary>
    public required IReadOnlyList<ManifestFile> Files { get; init; }

    public byte[] ToJson() => JsonSerializer.SerializeToUtf8Bytes(this, ManifestJson.Default.ModelManifest);

    /// <exception cref="InvalidDataException">There is no manifest, it is damaged, or it is of another version.</exception>
    public static ModelManifest Read(string folder)
    {
        var path = Path.Combine(folder, FileName);
        var file = new FileInfo(path);
        if (!file.Exists) throw new InvalidDataException($"{folder} is no exported model: it has no {FileName}. Export a checkpoint with 'ernie export' or ErnieExporter.");
        if (file.Length > MaxBytes) throw new InvalidDataException($"{path} has {file.Length} bytes; a manifest has at most {MaxBytes}. Export the checkpoint again.");
        return Parse(File.ReadAllBytes(path), path);
    }

    /// <summary>The format that a manifest says it has, whatever else is in it: later and earlier ones have other members. Null where there is no manifest that says so.</summary>
    public static int? VersionOf(string folder)
    {
        try
        {
            var file = new FileInfo(Path.Combine(folder, FileName));
            return file is { Exists: true, Length: <= MaxBytes } ? VersionOf(File.ReadAllBytes(file.FullName)) : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    private static int? VersionOf(ReadOnlySpan<byte> json)
    {
        try
        {
            return JsonSerializer.Deserialize(json, ManifestJson.Default.ManifestVersion)?.FormatVersion;
        }
        catch (JsonException)
        {
            return null;
        }
    }

    /// <exception cref="InvalidDataException">The bytes are no manifest of this version, or one of an impossible model.</exception>
    public static ModelManifest Parse(ReadOnlySpan<byte> json, string path)
    {
        // First: one of another format may lack what this one must have, and is not damaged for that.
        if (VersionOf(json) is { } version && version != CurrentVersion) throw new InvalidDataException($"{path} has format {version}; this version of Ernie.Sdk reads {CurrentVersion}. Export the checkpoint again.");
        ModelManifest manifest;
        try
        {
            manifest = JsonSerializer.Deserialize(json, ManifestJson.Default.ModelManifest) ?? throw new JsonException("the document is null.");
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path} cannot be read: {e.Message} Export the checkpoint again.", e);
        }
        manifest.Check(path);
        return manifest;
    }

    /// <summary>Version of the library that wrote the model.</summary>
    [JsonIgnore]
    public string ProducerVersion => Producer[(Producer.LastIndexOf(' ') + 1)..];

    /// <summary>A manifest may be edited or come from somewhere else: nothing below trusts its numbers unchecked.</summary>
    private void Check(string path)
    {
        var c = Config;
        // Far above any model, low enough that a graph built from these numbers stays small.
        const int MaxExperts = 1 << 20;
        // Generated readers leave a list null that the file does not mention.
        var sane = c.EosTokenIds is not null && c.MoeLayers is not null && c.ModelType is not null && c.VocabSize is > 0 and <= 1 << 24 && c.HiddenSize is > 0 and <= 1 << 20 && c.LayerCount is > 0 and <= 4096 && c.HeadDim is >= 2 and <= 4096 && c.HeadDim % 2 == 0
            && c.KvHeadCount is > 0 and <= 4096 && c.HeadCount is > 0 and <= 65536 && c.HeadCount % c.KvHeadCount == 0 && c.ContextLength is > 0 and <= 1 << 28
            && double.IsFinite(c.RopeTheta) && c.RopeTheta > 0 && double.IsFinite(c.CompressionRatio) && c.CompressionRatio > 0
            && float.IsFinite(c.RmsNormEps) && c.RmsNormEps >= 0 && float.IsFinite(c.RouterNormMin)
            && (c.MoeLayerCount == c.LayerCount || c.IntermediateSize is > 0 and <= ErnieConfigLimits.Width)
            && (c.MoeLayerCount == 0 || (c.ExpertCount is > 0 and <= ErnieConfigLimits.Experts && c.ExpertsPerToken > 0 && c.ExpertsPerToken <= c.ExpertCount
                && c.ExpertIntermediateSize is > 0 and <= ErnieConfigLimits.Width && c.SharedExpertCount is >= 0 and <= ErnieConfigLimits.Experts
                && (long)c.ExpertIntermediateSize * c.SharedExpertCount <= ErnieConfigLimits.Width && (long)c.ExpertCount * c.MoeLayerCount <= MaxExperts))
            && c.MoeLayers.Count <= c.LayerCount && WeightBytes >= 0 && Formats.Exceptions is not null
            && Tensors.All(static t => t?.Shape is not null && t.Format.IsValid) && Files.All(static f => f is not null);
        if (!sane) throw new InvalidDataException($"{path} describes an impossible model. Export the checkpoint again.");
        if (Formats.Problem(c) is { } problem) throw new InvalidDataException($"{path}: {problem}. Export the checkpoint again.");
        foreach (var tensor in Tensors)
        {
            if (tensor.Offset < 0 || tensor.Bytes < 0 || tensor.Offset > WeightBytes - tensor.Bytes)
                throw new InvalidDataException($"{path}: tensor {tensor.Name} lies outside {WeightFile}. Export the checkpoint again.");
        }
        foreach (var file in Files)
        {
            if (!IsPlainName(file.Name)) throw new InvalidDataException($"{path} names a file outside the folder: '{file.Name}'. Export the checkpoint again.");
        }
    }

    /// <summary>Separators of every system count, so that a folder means the same everywhere.</summary>
    private static bool IsPlainName(string name) => name.Length > 0 && name is not ("." or "..") && name.AsSpan().IndexOfAny("/\\:\0") < 0;
}

/// <summary>What every format's manifest has.</summary>
internal sealed record ManifestVersion
{
    public int? FormatVersion { get; init; }
}

/// <summary>One tensor of the weight file.</summary>
internal sealed record ManifestTensor(string Name, WeightFormat Format, IReadOnlyList<long> Shape, long Offset, long Bytes, string Sha256);

/// <summary>One whole file.</summary>
internal sealed record ManifestFile(string Name, long Bytes, string Sha256);

[JsonSourceGenerationOptions(WriteIndented = true, UseStringEnumConverter = true, PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, MaxDepth = 16, RespectNullableAnnotations = true, RespectRequiredConstructorParameters = true)]
[JsonSerializable(typeof(ModelManifest))]
[JsonSerializable(typeof(ManifestVersion))]
internal sealed partial class ManifestJson : JsonSerializerContext;
