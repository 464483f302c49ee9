using Ernie.Sdk.Tests.Support;
using Ernie.Sdk.Tokenization;

namespace Ernie.Sdk.Tests.Tokenization;

/// <summary>The tokenizers that tests share; loading the real one takes a moment.</summary>
internal static class Tokenizers
{
    private static readonly Lazy<ErnieTokenizer> _tiny = new(() => ErnieTokenizer.Load(TinyFolder));
    private static ErnieTokenizer? _real;

    public static string TinyFolder => Path.Combine(SharedData.RepositoryRoot, "samples", "ernie-tiny-moe");

    public static ErnieTokenizer Tiny => _tiny.Value;

    /// <summary>The tokenizer of the released models that do not think; skips the test where it is missing.</summary>
    public static ErnieTokenizer Real => _real ??= ErnieTokenizer.Load(Path.GetDirectoryName(SharedData.Path("tokenizer", "tokenizer.model"))!);

    public static List<int> Encode(SentencePieceModel model, string text)
    {
        var ids = new List<int>();
        new BpeEncoder(model, new HashSet<int>()).Encode(text, ids);
        return ids;
    }

    public static string[] Pieces(SentencePieceModel model, string text) => [.. Encode(model, text).Select(model.Piece)];
}
