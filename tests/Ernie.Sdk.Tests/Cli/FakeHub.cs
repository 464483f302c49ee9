using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>A repository in the forms that hubs give it, and a server with it.</summary>
internal sealed class FakeHub : IDisposable
{
    public const string Repository = "baidu/ERNIE-tiny";
    private readonly FileServer _server;

    public FakeHub()
    {
        var random = new Random(1);
        Files["config.json"] = Encoding.UTF8.GetBytes("""{"model_type":"ernie4_5"}""");
        Files["tokenizer.model"] = Bytes(random, 1234);
        Files["chat_template.jinja"] = Encoding.UTF8.GetBytes("{{ messages }}");
        Files["model-00001-of-00002.safetensors"] = Bytes(random, 300_000);
        Files["model-00002-of-00002.safetensors"] = Bytes(random, 200_000);
        Files["model.safetensors.index.json"] = Encoding.UTF8.GetBytes("""{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}""");
        Files["model-old.safetensors"] = Bytes(random, 100);
        Files["pytorch_model.bin"] = Bytes(random, 100);
        Files[".gitattributes"] = Bytes(random, 10);
        Files["figures/quality.txt"] = Bytes(random, 10);
        _server = new FileServer(Answer);
    }

    /// <summary>What a default pull takes.</summary>
    public static string[] Wanted { get; } = ["chat_template.jinja", "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.model"];

    public Dictionary<string, byte[]> Files { get; } = [];

    /// <summary>Changes an answer for a file; the count is that of requests for it so far, from 1.</summary>
    public Func<string, FileRequest, int, FileAnswer, FileAnswer> Fault { get; set; } = static (_, _, _, answer) => answer;

    /// <summary>Answers listings in place of the hub.</summary>
    public Func<FileRequest, FileAnswer?> List { get; set; } = static _ => null;

    public string Url => _server.Url;

    public IReadOnlyList<FileRequest> Requests => _server.Requests;

    public IEnumerable<FileRequest> RequestsFor(string file) => Requests.Where(r => NameOf(r) == file);

    public void AssertPulled(string folder, params string[] files)
    {
        Assert.Equal(files, Directory.GetFiles(folder, "*", SearchOption.AllDirectories).Select(f => Path.GetRelativePath(folder, f)).Order(StringComparer.Ordinal));
        foreach (var file in files) Assert.Equal(Files[file], File.ReadAllBytes(Path.Combine(folder, file)));
    }

    public string Tree(Func<string, string>? path = null) => JsonSerializer.Serialize(Files.Select(file => file.Key.EndsWith(".safetensors", StringComparison.Ordinal)
        ? (object)new { type = "file", oid = new string('0', 40), size = file.Value.Length, path = path?.Invoke(file.Key) ?? file.Key, lfs = new { oid = Convert.ToHexStringLower(SHA256.HashData(file.Value)), size = file.Value.Length, pointerSize = 134 } }
        : new { type = "file", oid = GitBlob(file.Value), size = file.Value.Length, path = path?.Invoke(file.Key) ?? file.Key }).Prepend(new { type = "directory", oid = new string('0', 40), size = 0, path = "figures" }));

    public void Dispose() => _server.Dispose();

    private FileAnswer Answer(FileRequest request)
    {
        if (List(request) is { } listed) return listed;
        if (request.Path == $"/api/models/{Repository}/tree/main?recursive=true") return new FileAnswer(200, Encoding.UTF8.GetBytes(Tree()));
        if (request.Path == $"/api/v1/models/{Repository}/repo/files?Revision=master&Recursive=true")
        {
            var files = Files.Select(file => new { Path = file.Key, Name = Path.GetFileName(file.Key), Type = "blob", Size = file.Value.Length, Sha256 = Convert.ToHexStringLower(SHA256.HashData(file.Value)) });
            return new FileAnswer(200, JsonSerializer.SerializeToUtf8Bytes(new { Code = 200, Success = true, Data = new { Files = files } }));
        }
        if (NameOf(request) is not { } name || !Files.TryGetValue(name, out var content)) return new FileAnswer(404, []);
        return Fault(name, request, _server.Requests.Count(r => NameOf(r) == name), FileAnswer.Of(content, request, $"\"{name}\""));
    }

    private static string? NameOf(FileRequest request)
    {
        foreach (var before in new[] { $"/{Repository}/resolve/main/", $"/api/v1/models/{Repository}/repo?Revision=master&FilePath=", "/plain/" })
        {
            if (request.Path.StartsWith(before, StringComparison.Ordinal)) return Uri.UnescapeDataString(request.Path[before.Length..]);
        }
        return null;
    }

    private static byte[] Bytes(Random random, int count)
    {
        var bytes = new byte[count];
        random.NextBytes(bytes);
        return bytes;
    }

#pragma warning disable CA5350 // Git's names are SHA-1.
    private static string GitBlob(byte[] content) => Convert.ToHexStringLower(SHA1.HashData([.. Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"blob {content.Length}\0")), .. content]));
#pragma warning restore CA5350
}
