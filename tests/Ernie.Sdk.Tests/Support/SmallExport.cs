using System.Security.Cryptography;
using System.Text.Json.Nodes;
using Ernie.Sdk.Export;

namespace Ernie.Sdk.Tests.Support;

/// <summary>An exported model of some hundred kilobytes with the sample's tokenizer: random weights, quick to load, to copy and to damage.</summary>
internal sealed class SmallExport : IDisposable
{
    private static readonly TemporaryFolder s_home = new();
    private static readonly Lazy<string> s_original = new(Export);
    private readonly TemporaryFolder _folder = new();

    static SmallExport() => AppDomain.CurrentDomain.ProcessExit += (_, _) => s_home.Dispose();

    public SmallExport(string name = "model")
    {
        Folder = _folder.File(name);
        Directory.CreateDirectory(Folder);
        foreach (var file in Directory.EnumerateFiles(s_original.Value)) System.IO.File.Copy(file, File(Path.GetFileName(file)));
    }

    /// <summary>A checkpoint of this model.</summary>
    public static string Checkpoint { get; } = s_home.File("checkpoint");

    public static TinyCheckpoint Shape { get; } = new() { Vocabulary = 2048, Experts = 4, SharedExperts = 1 };

    public string Folder { get; }

    public string File(string name) => Path.Combine(Folder, name);

    public byte[] Manifest
    {
        get => System.IO.File.ReadAllBytes(File(ModelManifest.FileName));
        set => System.IO.File.WriteAllBytes(File(ModelManifest.FileName), value);
    }

    public void EditManifest(Action<JsonObject> edit)
    {
        var json = JsonNode.Parse(Manifest)!.AsObject();
        edit(json);
        Manifest = System.Text.Encoding.UTF8.GetBytes(json.ToJsonString());
    }

    /// <summary>Replaces a file, and makes the manifest agree with it.</summary>
    public void Replace(string name, byte[] bytes)
    {
        System.IO.File.WriteAllBytes(File(name), bytes);
        EditManifest(json =>
        {
            var entry = json["files"]!.AsArray().Single(f => (string?)f!["name"] == name)!;
            entry["bytes"] = bytes.Length;
            entry["sha256"] = Convert.ToHexStringLower(SHA256.HashData(bytes));
        });
    }

    public Task<ErnieModel> LoadAsync(string? folder = null) => ErnieModel.LoadAsync(folder ?? Folder, new ErnieModelOptions { KvCacheBytes = 4 << 20, Threads = 2 });

    public void Dispose() => _folder.Dispose();

    private static string Export()
    {
        Shape.Write(Checkpoint);
        foreach (var name in new[] { "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json" })
            System.IO.File.Copy(Path.Combine(TinyModel.Checkpoint, name), Path.Combine(Checkpoint, name));
        var folder = s_home.File("exported");
        ErnieExporter.ExportAsync(Checkpoint, folder, ExportAs.BFloat16).GetAwaiter().GetResult();
        return folder;
    }
}
