using System.Text;
using Ernie.Sdk.Export;
using Ernie.Sdk.Tokenization;

namespace Ernie.Sdk.Fuzz;

/// <summary>A small tokenizer with everything that the reader knows, and the JSON files that lie beside one.</summary>
internal static class TokenizerSeeds
{
    // One folder for the process: the reader of side files takes a folder.
    private static readonly string s_folder = MakeFolder();

    public static byte[] Small { get; } = Model();

    public static IReadOnlyList<byte[]> Models { get; } = [Small];

    public static IReadOnlyList<byte[]> AddedTokens { get; } = [Encoding.UTF8.GetBytes("""{"<|im_start|>": 300, "<|im_end|>": 301, "</think>": 302, "\u2581x": 303}""")];

    public static IReadOnlyList<byte[]> Configurations { get; } =
    [
        Encoding.UTF8.GetBytes("""
            {"bos_token":"<s>","eos_token":{"content":"</s>","special":true},"cls_token":"<|begin_of_sentence|>","additional_special_tokens":["<|im_end|>",{"content":"<mask:1>"}],
            "extra_special_tokens":{"a":"<x>"},"added_tokens_decoder":{"0":{"content":"<unk>","special":true},"301":{"content":"<|im_end|>","special":false}},"model_max_length":131072}
            """),
    ];

    public static void ReadModel(byte[] bytes)
    {
        var model = SentencePieceModel.Parse(bytes, "input");
        var ids = new List<int>();
        var ranges = new List<(int Start, int End)>();
        new BpeEncoder(model, new HashSet<int>()).Encode("Hello  ab 12 你好🐼 </s>", ids, ranges);
        if (ids.Count != ranges.Count || ids.Exists(id => (uint)id >= (uint)model.PieceCount)) throw new InvalidOperationException("Tokens outside the vocabulary.");
    }

    public static void ReadSideFile(string name, byte[] bytes)
    {
        var path = Path.Combine(s_folder, name);
        try
        {
            File.WriteAllBytes(path, bytes);
            var tokenizer = ErnieTokenizer.Load(s_folder);
            _ = tokenizer.Decode(tokenizer.EncodeToIds("Hello <|im_end|> ab</s>", allowSpecialTokens: true));
        }
        finally
        {
            File.Delete(path);
        }
    }

    private static byte[] Model()
    {
        var model = new ProtobufWriter();
        Piece("<unk>", 0, 2);
        Piece("<s>", 0, 3);
        Piece("</s>", 0, 3);
        foreach (var digit in "0123456789") Piece(digit.ToString(), 0, 4);
        for (var value = 0; value < 256; value++) Piece($"<0x{value:X2}>", 0, 6);
        var score = 0f;
        foreach (var piece in new[] { "▁", "H", "e", "l", "o", "a", "b", "你", "好", "ll", "ab", "▁a", "el", "ell", "▁ab", "ello", "Hello", "你好", "▁▁" }) Piece(piece, score--, 1);
        return model.Message(2, new ProtobufWriter().Int(3, 2).Int(24, 0).Int(35, 1).Int(41, 1).Int(42, 2)).Message(3, new ProtobufWriter().Bytes(2, []).Int(3, 0).Int(4, 0).Int(5, 1)).ToArray();

        void Piece(string text, float score, int type) => model.Message(1, new ProtobufWriter().String(1, text).Float(2, score).Int(3, type));
    }

    private static string MakeFolder()
    {
        var folder = Directory.CreateTempSubdirectory("ernie-fuzz-").FullName;
        AppDomain.CurrentDomain.ProcessExit += (_, _) => Directory.Delete(folder, recursive: true);
        File.WriteAllBytes(Path.Combine(folder, "tokenizer.model"), Model());
        return folder;
    }
}
