using System.Globalization;
using System.Text.Json;

namespace Ernie.Sdk.Tokenization;

/// <summary>The control and other added tokens of a checkpoint, and the names the files give to some (<c>cls_token</c> …). Immutable.</summary>
/// <remarks>
/// Precedence, highest first: <c>added_tokens_decoder</c> in tokenizer_config.json; added_tokens.json with the special strings of
/// tokenizer_config.json and special_tokens_map.json; control pieces of the SentencePiece model.
/// User-defined pieces of one character (the digits) are ordinary text and stay SentencePiece's matter.
/// </remarks>
internal sealed class AddedTokens
{
    public const string ConfigFile = "tokenizer_config.json";

    private const string MapFile = "special_tokens_map.json";
    private const string AddedFile = "added_tokens.json";

    // Limits that no real vocabulary comes near.
    private const int MaximumId = (1 << 22) - 1;
    private const int MaximumLength = 1024;

    // The output grammar of the thinking models. A parser reads these, so they survive even where a checkpoint calls them special.
    private static readonly HashSet<string> _neverSpecial = ["<think>", "</think>", "<response>", "</response>", "<tool_call>", "</tool_call>"];

    private readonly SentencePieceModel _model;
    private readonly Dictionary<int, AddedToken> _byId = [];
    private readonly Dictionary<string, int> _byContent = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> _named = new(StringComparer.Ordinal);
    private readonly HashSet<string> _specialTexts = new(StringComparer.Ordinal);

    private AddedTokens(SentencePieceModel model) => _model = model;

    public LongestMatcher Matcher { get; } = new();

    /// <summary>Ids that ordinary text must not become.</summary>
    public IReadOnlySet<int> Ids { get; private set; } = new HashSet<int>();

    public static AddedTokens Read(string folder, SentencePieceModel model)
    {
        var tokens = new AddedTokens(model);
        var config = JsonFile.TryReadObject(folder, ConfigFile);
        if (JsonFile.TryReadObject(folder, MapFile) is { } map) tokens.ReadNames(map);
        if (config is { } names) tokens.ReadNames(names);

        tokens.AddControlPieces();
        if (JsonFile.TryReadObject(folder, AddedFile) is { } added) tokens.ReadAdded(added, Path.Combine(folder, AddedFile));
        tokens.AddSpecialTexts();
        if (config is { } last && last.TryGetProperty("added_tokens_decoder", out var decoder)) tokens.ReadDecoder(decoder, Path.Combine(folder, ConfigFile));
        tokens.Complete();
        return tokens;
    }

    public bool TryGet(int id, out AddedToken token) => _byId.TryGetValue(id, out token!);

    public bool TryGetId(string content, out int id) => _byContent.TryGetValue(content, out id);

    /// <summary>The text the files give to a name such as <c>eos_token</c>.</summary>
    public string? Named(string name) => _named.GetValueOrDefault(name);

    private void ReadNames(JsonElement file)
    {
        foreach (var property in file.EnumerateObject())
        {
            if (property.Name is "additional_special_tokens" or "extra_special_tokens")
            {
                ReadTexts(property.Value);
            }
            else if (property.Name.EndsWith("_token", StringComparison.Ordinal) && TextOf(property.Value) is { Length: > 0 } text)
            {
                _named[property.Name] = text;
                _specialTexts.Add(text);
            }
        }
    }

    private void ReadTexts(JsonElement list)
    {
        if (list.ValueKind == JsonValueKind.Array)
        {
            foreach (var item in list.EnumerateArray()) AddSpecialText(item);
        }
        else if (list.ValueKind == JsonValueKind.Object)
        {
            foreach (var item in list.EnumerateObject()) AddSpecialText(item.Value);
        }
    }

    private void AddSpecialText(JsonElement item)
    {
        if (TextOf(item) is { Length: > 0 } text) _specialTexts.Add(text);
    }

    private static string? TextOf(JsonElement value) =>
        value.ValueKind == JsonValueKind.Object && value.TryGetProperty("content", out var content) ? JsonFile.AsText(content) : JsonFile.AsText(value);

    private void AddControlPieces()
    {
        for (var id = 0; id < _model.PieceCount; id++)
        {
            var piece = _model.Piece(id);
            switch (_model.Type(id))
            {
                case PieceType.Control or PieceType.Unknown: _byId[id] = new AddedToken(id, piece, true); break;
                case PieceType.UserDefined when IsTag(piece): _byId[id] = new AddedToken(id, piece, false); break;
            }
        }
    }

    private void ReadAdded(JsonElement file, string path)
    {
        var seen = new HashSet<int>();
        foreach (var property in file.EnumerateObject())
        {
            if (property.Value.ValueKind != JsonValueKind.Number || !property.Value.TryGetInt32(out var id)) throw JsonFile.Invalid(path, $"the id of '{property.Name}' is no integer");
            if (!seen.Add(id)) throw JsonFile.Invalid(path, $"the id {id} has two tokens");
            Add(id, property.Name, _specialTexts.Contains(property.Name), path);
        }
    }

    private void AddSpecialTexts()
    {
        foreach (var token in _byId.Values) _byContent.TryAdd(token.Content, token.Id);
        foreach (var text in _specialTexts)
        {
            if (!_byContent.TryGetValue(text, out var id) && !_model.TryGetId(text, out id)) continue;
            if (!IsOrdinary(id, text)) _byId[id] = new AddedToken(id, text, true);
        }
    }

    private void ReadDecoder(JsonElement decoder, string path)
    {
        if (decoder.ValueKind != JsonValueKind.Object) return;
        foreach (var entry in decoder.EnumerateObject())
        {
            if (!int.TryParse(entry.Name, NumberStyles.None, CultureInfo.InvariantCulture, out var id)) throw JsonFile.Invalid(path, $"'{entry.Name}' in added_tokens_decoder is no id");
            var content = TextOf(entry.Value) ?? throw JsonFile.Invalid(path, $"entry {id} of added_tokens_decoder has no content");
            var special = entry.Value.ValueKind == JsonValueKind.Object && entry.Value.TryGetProperty("special", out var flag) && flag.ValueKind == JsonValueKind.True;
            Add(id, content, special, path);
        }
    }

    private void Add(int id, string content, bool special, string path)
    {
        if (id is < 0 or > MaximumId) throw JsonFile.Invalid(path, $"the id {id} of '{content}' lies outside 0 to {MaximumId}");
        if (content.Length is 0 or > MaximumLength) throw JsonFile.Invalid(path, $"the token of id {id} has {content.Length} characters; 1 to {MaximumLength} are possible");
        if (!IsOrdinary(id, content)) _byId[id] = new AddedToken(id, content, special);
    }

    private void Complete()
    {
        _byContent.Clear();
        foreach (var token in _byId.Values.ToArray())
        {
            if (token.IsSpecial && _neverSpecial.Contains(token.Content)) _byId[token.Id] = token with { IsSpecial = false };

            // Of two ids with one text, the later file's is the higher one: a model's own piece lies below what was added.
            if (!_byContent.TryGetValue(token.Content, out var other) || other < token.Id) _byContent[token.Content] = token.Id;
        }
        foreach (var (content, id) in _byContent) Matcher.Add(content, id);
        Ids = _byId.Keys.ToHashSet();
    }

    private bool IsOrdinary(int id, string text) =>
        SymbolTable.IsOneScalar(text) && id < _model.PieceCount && _model.Piece(id) == text && _model.Type(id) is PieceType.UserDefined or PieceType.Normal;

    private static bool IsTag(string piece) => piece.Length > 2 && (piece[0], piece[^1]) is ('<', '>') or ('[', ']');
}
