using System.Text;
using System.Text.Json.Nodes;
using CsCheck;
using Ernie.Sdk.Export;
using Google.Protobuf;
using Onnx;

namespace Ernie.Sdk.Tests.Export;

/// <summary>Folders that the exporter did not write, or that something happened to since. They are refused with the file, what was expected, and what helps; no byte of them reaches native code.</summary>
public sealed class HostileModelTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task AnUntouchedModel_LoadsAndVerifies()
    {
        using var export = new SmallExport();
        using var model = await export.LoadAsync();
        await ErnieExporter.VerifyAsync(export.Folder, cancellationToken: Token);
        Assert.Equal(3, (await model.GenerateAsync([1, 2, 3], new() { MaxTokens = 3, IgnoreStopTokens = true }, Token).ToListAsync(Token)).Count);
    }

    [Theory]
    [InlineData("")]
    [InlineData("{")]
    [InlineData("null")]
    [InlineData("[]")]
    [InlineData("{}")]
    [InlineData("\0\0\0\0")]
    [InlineData("{\"formatVersion\":\"one\"}")]
    [InlineData("{\"name\":\"\\ud800\"}")]
    [InlineData("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[")]
    public async Task AManifestThatIsNone_IsRefused(string text)
    {
        using var export = new SmallExport();
        export.Manifest = Encoding.UTF8.GetBytes(text);
        await RefusesAsync(export, ModelManifest.FileName);
    }

    [Fact]
    public async Task AManifestOfAnyLength_IsRefused()
    {
        using var export = new SmallExport();
        var whole = export.Manifest;
        for (var length = 0; length < whole.Length; length += 97)
        {
            export.Manifest = whole[..length];
            await RefusesAsync(export, ModelManifest.FileName);
        }
    }

    [Fact]
    public async Task AHugeManifest_IsRefusedUnread()
    {
        using var export = new SmallExport();
        using (var stream = File.OpenWrite(export.File(ModelManifest.FileName))) stream.SetLength(1L << 40);
        await RefusesAsync(export, "bytes");
    }

    public static TheoryData<string, string> ManifestEdits { get; } = new()
    {
        { "formatVersion", "1" }, { "formatVersion", "99" }, { "formatVersion", "-1" }, { "name", "null" }, { "producer", "null" }, { "producer", "\"Ernie.Sdk 9.9.9\"" }, 
        { "formats", "null" }, { "formats.experts", "\"Int4\"" }, { "formats.experts", "77" }, { "formats.experts", "\"fp32\"" }, { "formats.experts", "\"int4/32\"" }, { "formats.experts", "\"int2\"" }, { "formats.experts", "\"int4/48\"" },
        { "formats.dense", "\"fp32\"" }, { "formats.dense", "\"int2\"" }, { "formats.dense", "\"int8/channel\"" }, { "formats.embedding", "\"int8/128\"" }, { "formats.embedding", "\"fp32\"" }, { "formats.head", "\"int2\"" }, { "formats.head", "\"int4/128\"" },
        { "formats.exceptions", "null" }, { "formats.exceptions", "{\"x\":\"bf16\"}" }, { "formats.exceptions", "{\"model.norm.weight\":\"bf16\"}" }, { "formats.exceptions", "{\"model.layers.1.mlp.experts.down_proj.weight\":\"int8/32\"}" },
       
        { "debugOutputs", "true" }, { "config", "null" }, { "tensors", "null" }, { "tensors", "[]" }, { "tensors", "[null]" }, { "files", "null" }, { "files", "[]" }, { "files", "[null]" },
        { "weightBytes", "-1" }, { "weightBytes", "0" }, { "weightBytes", "9223372036854775807" },
        { "config.layerCount", "1" }, { "config.layerCount", "3" }, { "config.layerCount", "4096" }, { "config.layerCount", "0" }, { "config.layerCount", "2147483647" },
        { "config.headCount", "2" }, { "config.headCount", "8" }, { "config.headCount", "3" }, { "config.kvHeadCount", "4" }, { "config.kvHeadCount", "0" }, { "config.headDim", "16" }, { "config.headDim", "7" }, { "config.headDim", "4096" },
        { "config.hiddenSize", "64" }, { "config.hiddenSize", "1048576" }, { "config.vocabSize", "1024" }, { "config.vocabSize", "16777216" }, { "config.intermediateSize", "0" }, { "config.intermediateSize", "2147483647" },
        { "config.expertCount", "8" }, { "config.expertCount", "2147483647" }, { "config.expertCount", "0" }, { "config.expertsPerToken", "3" }, { "config.expertsPerToken", "5" }, { "config.expertsPerToken", "0" },
        { "config.expertIntermediateSize", "32" }, { "config.sharedExpertCount", "0" }, { "config.sharedExpertCount", "-1" }, { "config.moeLayers", "null" }, { "config.moeLayers", "[true,true]" }, { "config.moeLayers", "[]" }, { "config.moeLayers", "[false,true,true]" },
        { "config.contextLength", "0" }, { "config.contextLength", "2147483647" }, { "config.ropeTheta", "0" }, { "config.ropeTheta", "1e999" }, { "config.compressionRatio", "-1" }, { "config.rmsNormEps", "0.5" }, { "config.rmsNormEps", "-1" },
        { "config.tieWordEmbeddings", "false" }, { "config.eosTokenIds", "null" },
        { "tensors.0", "null" }, { "tensors.0.offset", "4096" }, { "tensors.0.offset", "-4096" }, { "tensors.0.offset", "9223372036854775807" }, { "tensors.1.bytes", "0" }, { "tensors.1.bytes", "-1" }, { "tensors.1.name", "\"x\"" }, { "tensors.1.name", "null" }, { "tensors.1.shape", "null" },
        { "tensors.0.format", "\"fp32\"" }, { "files.0.name", "\"../checkpoint/config.json\"" }, { "files.0.name", "\"..\"" }, { "files.0.name", "\"/etc/passwd\"" }, { "files.0.name", "\"..\\\\x\"" }, { "files.0.name", "null" }, { "files.0.name", "\"\"" }, { "files.0.name", "\"a\\u0000b\"" },
        { "files.0.bytes", "1" }, { "files.0", "null" },
    };

    [Theory]
    [MemberData(nameof(ManifestEdits))]
    public async Task AnEditedManifest_IsRefused(string path, string value)
    {
        using var export = new SmallExport();
        export.EditManifest(json =>
        {
            var steps = path.Split('.');
            JsonNode node = json;
            foreach (var step in steps[..^1]) node = int.TryParse(step, out var index) ? node[index]! : node[step]!;
            if (int.TryParse(steps[^1], out var last)) node[last] = JsonNode.Parse(value);
            else node[steps[^1]] = JsonNode.Parse(value);
        });
        await RefusesAsync(export, export.Folder);
    }

    [Fact]
    public async Task ADamagedGraph_IsRefusedBeforeOnnxRuntimeSeesIt()
    {
        using var export = new SmallExport();
        var graph = File.ReadAllBytes(export.File(ModelManifest.ModelFile));
        graph[graph.Length / 2] ^= 1;
        File.WriteAllBytes(export.File(ModelManifest.ModelFile), graph);
        await RefusesAsync(export, "SHA-256");
        File.WriteAllBytes(export.File(ModelManifest.ModelFile), graph[..^10]);
        await RefusesAsync(export, "bytes");
        File.Delete(export.File(ModelManifest.ModelFile));
        await RefusesAsync(export, "is missing");
    }

    public static TheoryData<string> GraphEdits { get; } = [.. s_graphEdits.Keys];

    private static Dictionary<string, Action<ModelProto>> s_graphEdits => new()
    {
        ["head_dim"] = static m => Attribute(m, "SparseAttention", "head_dim").I = 4,
        ["num_heads"] = static m => Attribute(m, "SparseAttention", "num_heads").I = 1 << 20,
        ["num_kv_heads"] = static m => Attribute(m, "SparseAttention", "num_kv_heads").I = 1,
        ["kv_head_end"] = static m => Attribute(m, "SparseAttention", "kv_head_end").I = 1,
        ["top_k"] = static m => Attribute(m, "MoeExperts", "top_k").I = 4,
        ["num_experts"] = static m => Attribute(m, "MoeExperts", "num_experts").I = 1 << 30,
        ["intermediate_size"] = static m => Attribute(m, "MoeExperts", "intermediate_size").I = -1,
        ["expert_begin"] = static m => Attribute(m, "MoeExperts", "expert_begin").I = -1,
        ["expert_end"] = static m => Attribute(m, "MoeExperts", "expert_end").I = 1 << 30,
        ["swiglu"] = static m => Attribute(m, "Linear", "swiglu").I = 1,
        ["attribute of another type"] = static m => Attribute(m, "MoeExperts", "top_k").Type = AttributeProto.Types.AttributeType.Float,
        ["weight shape"] = static m => m.Graph.Initializer[1].Dims[0] *= 1024,
        ["negative weight shape"] = static m => m.Graph.Initializer[1].Dims[0] = -1,
        ["weight type"] = static m => m.Graph.Initializer[0].DataType = 1,
        ["weight offset"] = static m => External(m, "offset").Value = "9223372036854770000",
        ["negative weight offset"] = static m => External(m, "offset").Value = "-4096",
        ["weight length"] = static m => External(m, "length").Value = "18446744073709551615",
        ["weight location above the folder"] = static m => External(m, "location").Value = "../../../../etc/passwd",
        ["absolute weight location"] = static m => External(m, "location").Value = "/dev/zero",
        ["missing initializer"] = static m => m.Graph.Initializer.RemoveAt(2),
        ["foreign operator"] = static m => m.Graph.Node[3].OpType = "Loop",
        ["cycle"] = static m => m.Graph.Node[1].Input[0] = m.Graph.Node[^1].Output[0],
        ["no nodes"] = static m => m.Graph.Node.Clear(),
        ["no graph"] = static m => m.Graph = null,
        ["operator set"] = static m => m.OpsetImport[0].Version = 1_000_000,
    };

    [Theory]
    [MemberData(nameof(GraphEdits))]
    public async Task AnEditedGraph_IsRefused_EvenWhenTheManifestAgrees(string edit)
    {
        using var export = new SmallExport();
        var model = ModelProto.Parser.ParseFrom(File.ReadAllBytes(export.File(ModelManifest.ModelFile)));
        s_graphEdits[edit](model);
        export.Replace(ModelManifest.ModelFile, model.ToByteArray());
        await RefusesAsync(export, "is not the graph");
    }

    [Fact]
    public void AnyChangeOfTheGraph_IsRefused()
    {
        using var export = new SmallExport();
        var original = File.ReadAllBytes(export.File(ModelManifest.ModelFile));
        Mutations(original).Sample(bytes =>
        {
            export.Replace(ModelManifest.ModelFile, bytes);
            if (bytes.AsSpan().SequenceEqual(original)) return;
            var manifest = ModelManifest.Read(export.Folder);
            Assert.Throws<InvalidDataException>(() => ModelVerifier.Check(export.Folder, manifest));
        }, iter: 300, threads: 1);
    }

    [Fact]
    public void AnyChangeOfTheManifest_IsReadOrRefused()
    {
        using var export = new SmallExport();
        Mutations(export.Manifest).Sample(bytes =>
        {
            export.Manifest = bytes;
            try
            {
                using var model = export.LoadAsync().GetAwaiter().GetResult();
            }
            catch (Exception e) when (e is InvalidDataException or NotSupportedException)
            {
                Assert.Contains(export.Folder, e.Message, StringComparison.Ordinal);
            }
        }, iter: 200, threads: 1);
    }

    [Fact]
    public async Task WeightsCutShortOrMissing_AreRefused()
    {
        using var export = new SmallExport();
        var path = export.File(ModelManifest.WeightFile);
        using (var stream = File.OpenWrite(path)) stream.SetLength(stream.Length - 1);
        await RefusesAsync(export, ModelManifest.WeightFile);
        File.Delete(path);
        await RefusesAsync(export, "is missing");
        Directory.CreateDirectory(path);
        await RefusesAsync(export, "is missing");
    }

    [Fact]
    public async Task OneChangedBitOfAWeight_IsFoundByVerify()
    {
        using var export = new SmallExport();
        var tensor = ModelManifest.Read(export.Folder).Tensors[3];
        using (var stream = File.Open(export.File(ModelManifest.WeightFile), FileMode.Open))
        {
            stream.Position = tensor.Offset + tensor.Bytes - 1;
            var last = stream.ReadByte();
            stream.Position--;
            stream.WriteByte((byte)(last ^ 1));
        }
        var e = await Assert.ThrowsAsync<InvalidDataException>(() => ErnieExporter.VerifyAsync(export.Folder, cancellationToken: Token));
        Assert.Contains(tensor.Name, e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("tokenizer.model")]
    [InlineData("tokenizer_config.json")]
    [InlineData("generation_config.json")]
    public async Task AGarbledSideFile_IsRefused_EvenWhenTheManifestAgrees(string name)
    {
        using var export = new SmallExport();
        var length = new FileInfo(export.File(name)).Length;
        export.Replace(name, [.. Enumerable.Range(0, (int)length).Select(static i => (byte)(i * 37 + 11))]);
        var e = await Assert.ThrowsAnyAsync<InvalidDataException>(() => export.LoadAsync());
        Assert.Contains(name, e.Message, StringComparison.Ordinal);
        File.Delete(export.File(name));
        await RefusesAsync(export, "is missing");
    }

    [Fact]
    public async Task AModelWithoutTokenizer_GeneratesButDoesNotChat()
    {
        using var export = new SmallExport();
        File.Delete(export.File("tokenizer.model"));
        export.EditManifest(static json => json["files"] = new JsonArray([.. json["files"]!.AsArray().Where(static f => (string?)f!["name"] != "tokenizer.model").Select(static f => f!.DeepClone())]));
        using var model = await export.LoadAsync();
        Assert.Contains("tokenizer.model", Assert.Throws<NotSupportedException>(() => model.AsChatClient()).Message, StringComparison.Ordinal);
        await Assert.ThrowsAsync<NotSupportedException>(() => model.CountTokensAsync([], cancellationToken: Token));
        Assert.Equal(4, (await model.GenerateAsync([5, 6], new() { MaxTokens = 4, IgnoreStopTokens = true }, Token).ToListAsync(Token)).Count);
    }

    [Theory]
    [InlineData("with spaces and 'quotes' #1%20")]
    [InlineData("文心一言-模型 é 🐼")]
    [InlineData("long")]
    public async Task AnyPath_Loads(string name)
    {
        // Five components of 200 characters, or this name.
        using var export = new SmallExport(name == "long" ? Path.Combine([.. Enumerable.Repeat(new string('x', 200), 5)]) : name);
        await ErnieExporter.VerifyAsync(export.Folder, cancellationToken: Token);
        using var model = await export.LoadAsync();
        Assert.Single(await model.GenerateAsync([1], new() { MaxTokens = 1, IgnoreStopTokens = true }, Token).ToListAsync(Token));
    }

    [Fact]
    public async Task AReadOnlyFolder_Loads()
    {
        if (OperatingSystem.IsWindows())
        {
            Assert.Skip("Unix file modes.");
            return;
        }
        using var export = new SmallExport();
        foreach (var file in Directory.EnumerateFiles(export.Folder)) File.SetUnixFileMode(file, UnixFileMode.UserRead);
        File.SetUnixFileMode(export.Folder, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        try
        {
            using var model = await export.LoadAsync();
            await ErnieExporter.VerifyAsync(export.Folder, cancellationToken: Token);
        }
        finally
        {
            File.SetUnixFileMode(export.Folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        }
    }

    [Fact]
    public async Task ALinkToTheFolder_Loads()
    {
        using var export = new SmallExport();
        var link = export.Folder + "-link";
        Directory.CreateSymbolicLink(link, export.Folder);
        using var model = await export.LoadAsync(link);
        Assert.Equal(link, model.Path);
    }

    [Fact]
    public async Task LinkedFiles_Load()
    {
        // Model caches keep files elsewhere and fill folders with links.
        using var export = new SmallExport();
        using var linked = new TemporaryFolder();
        foreach (var file in Directory.EnumerateFiles(export.Folder)) File.CreateSymbolicLink(linked.File(Path.GetFileName(file)), file);
        await ErnieExporter.VerifyAsync(linked.Path, cancellationToken: Token);
        using var model = await export.LoadAsync(linked.Path);
        Assert.Single(await model.GenerateAsync([1], new() { MaxTokens = 1, IgnoreStopTokens = true }, Token).ToListAsync(Token));
    }

    [Fact]
    public async Task AFolderThatIsNone_IsRefused()
    {
        using var folder = new TemporaryFolder();
        await Assert.ThrowsAsync<DirectoryNotFoundException>(() => ErnieModel.LoadAsync(folder.File("absent"), cancellationToken: Token));
        await Assert.ThrowsAsync<InvalidDataException>(() => ErnieModel.LoadAsync(folder.Path, cancellationToken: Token));
        await Assert.ThrowsAsync<InvalidDataException>(() => ErnieExporter.VerifyAsync(folder.File("absent"), cancellationToken: Token));
        File.WriteAllText(folder.File("file"), "");
        await Assert.ThrowsAsync<InvalidDataException>(() => ErnieModel.LoadAsync(folder.File("file"), cancellationToken: Token));
        await Assert.ThrowsAsync<ArgumentException>(() => ErnieModel.LoadAsync("", cancellationToken: Token));
        await Assert.ThrowsAsync<ArgumentNullException>(() => ErnieModel.LoadAsync(null!, cancellationToken: Token));
    }

    /// <summary>Loading and verifying both refuse, name the place, and say what to do.</summary>
    private static async Task RefusesAsync(SmallExport export, string expected)
    {
        foreach (var attempt in new Func<Task>[] { async () => (await export.LoadAsync()).Dispose(), () => ErnieExporter.VerifyAsync(export.Folder) })
        {
            var e = await Record.ExceptionAsync(attempt);
            Assert.True(e is InvalidDataException or NotSupportedException, $"{e}");
            Assert.Contains(expected, e!.Message, StringComparison.Ordinal);
            Assert.Contains(export.Folder, e.Message, StringComparison.Ordinal);
            Assert.Matches("again|Copy|Name an", e.Message);
        }
    }

    private static Gen<byte[]> Mutations(byte[] original) =>
        Gen.Select(Gen.Int[0, 4], Gen.Int[0, original.Length - 1], Gen.Byte, Gen.Int[1, 40]).Array[1, 4].Select(changes =>
        {
            var bytes = new List<byte>(original);
            foreach (var (kind, position, value, count) in changes)
            {
                var at = Math.Min(position, bytes.Count - 1);
                if (at < 0) break;
                switch (kind)
                {
                    case 0: bytes[at] = value; break;
                    case 1: bytes[at] ^= (byte)(1 << (value & 7)); break;
                    case 2: bytes.Insert(at, value); break;
                    case 3: bytes.RemoveRange(at, Math.Min(count, bytes.Count - at)); break;
                    default: bytes.InsertRange(at, bytes.GetRange(at, Math.Min(count, bytes.Count - at))); break;
                }
            }
            return bytes.ToArray();
        });

    private static AttributeProto Attribute(ModelProto model, string op, string name) => model.Graph.Node.First(n => n.OpType == op).Attribute.Single(a => a.Name == name);

    private static StringStringEntryProto External(ModelProto model, string key) => model.Graph.Initializer[1].ExternalData.Single(e => e.Key == key);
}
