using System.Globalization;
using System.Text;

namespace Ernie.Sdk.Tokenization;

/// <summary>A SentencePiece BPE model, read by hand from the protobuf message <c>ModelProto</c>. Immutable.</summary>
internal sealed class SentencePieceModel
{
    /// <summary>The real file has 1.6 MB and 100,295 pieces; the limits leave room for every published SentencePiece vocabulary.</summary>
    public const int MaximumFileBytes = 64 << 20;
    public const int MaximumPieceCount = 1 << 20;

    /// <summary>SentencePiece's own trainer allows no longer pieces.</summary>
    public const int MaximumPieceLength = 512;

    private static readonly UTF8Encoding _strictUtf8 = new(false, throwOnInvalidBytes: true);

    private readonly List<string> _pieces = [];
    private readonly List<float> _scores = [];
    private readonly List<PieceType> _types = [];
    private readonly Dictionary<string, int> _ids = new(StringComparer.Ordinal);
    private readonly int[] _byteIds = new int[256];
    private int _modelType = 1;
    private bool _suffixMode;

    private SentencePieceModel(string fileName)
    {
        FileName = fileName;
        Array.Fill(_byteIds, -1);
    }

    public string FileName { get; }
    public int PieceCount => _pieces.Count;
    public int UnknownId { get; private set; } = -1;
    public bool ByteFallback { get; private set; }
    public bool AddDummyPrefix { get; private set; } = true;
    public bool RemoveExtraWhitespaces { get; private set; } = true;
    public bool EscapeWhitespaces { get; private set; } = true;

    /// <summary>Ids the trainer wrote for the sentence marks; -1 = none.</summary>
    public int BosId { get; private set; } = 1;
    public int EosId { get; private set; } = 2;

    public string Piece(int id) => _pieces[id];
    public float Score(int id) => _scores[id];
    public PieceType Type(int id) => _types[id];

    /// <summary>Id of the byte piece, when the model has byte fallback.</summary>
    public int ByteId(byte value) => _byteIds[value];

    public bool TryGetId(string piece, out int id) => _ids.TryGetValue(piece, out id);

    /// <exception cref="InvalidDataException">The bytes are no SentencePiece BPE model that ERNIE can use; the message says why.</exception>
    public static SentencePieceModel Parse(ReadOnlySpan<byte> bytes, string fileName)
    {
        if (bytes.Length > MaximumFileBytes) throw Invalid(fileName, $"it has {bytes.Length} bytes, more than the limit of {MaximumFileBytes}");
        if (bytes.IsEmpty) throw Invalid(fileName, "it is empty");
        if (bytes.StartsWith("version https://git-lfs"u8))
        {
            throw new InvalidDataException($"{fileName} is a Git LFS pointer, not the file itself. Run 'git lfs pull' in the checkpoint's folder, or download the file.");
        }

        var model = new SentencePieceModel(fileName);
        var reader = new ProtobufReader(bytes, fileName);
        while (reader.TryReadField(out var field, out var wireType))
        {
            switch (field)
            {
                case 1: model.ReadPiece(reader.ReadMessage(wireType)); break;
                case 2: model.ReadTrainerSpec(reader.ReadMessage(wireType)); break;
                case 3: model.ReadNormalizerSpec(reader.ReadMessage(wireType)); break;
                case 5: ReadDenormalizerSpec(reader.ReadMessage(wireType)); break;
                default: reader.Skip(wireType); break;
            }
        }
        model.Validate();
        return model;
    }

    public static InvalidDataException Invalid(string fileName, string finding) => new(
        $"{fileName} cannot be used: {finding}. Expected a SentencePiece model of type BPE as in the ERNIE 4.5 checkpoints; copy the file from the original checkpoint again.");

    private void ReadPiece(ProtobufReader reader)
    {
        ReadOnlySpan<byte> text = default;
        var score = 0f;
        var type = 1;
        while (reader.TryReadField(out var field, out var wireType))
        {
            switch (field)
            {
                case 1: text = reader.ReadBytes(wireType); break;
                case 2: score = reader.ReadFloat(wireType); break;
                case 3: type = reader.ReadInt32(wireType); break;
                default: reader.Skip(wireType); break;
            }
        }

        var id = _pieces.Count;
        if (id == MaximumPieceCount) throw reader.Invalid($"it has more than {MaximumPieceCount} pieces");
        if (text.IsEmpty) throw reader.Invalid($"piece {id} has no text");
        if (text.Length > MaximumPieceLength * 4) throw reader.Invalid($"piece {id} has {text.Length} bytes, more than {MaximumPieceLength * 4}");
        if (!float.IsFinite(score)) throw reader.Invalid($"the score of piece {id} is {score.ToString(CultureInfo.InvariantCulture)}");
        if (type is < (int)PieceType.Normal or > (int)PieceType.Byte) throw reader.Invalid($"piece {id} has the unknown type {type}");

        string piece;
        try { piece = _strictUtf8.GetString(text); }
        catch (DecoderFallbackException) { throw reader.Invalid($"piece {id} is not valid UTF-8"); }
        if (piece.Length > MaximumPieceLength) throw reader.Invalid($"piece {id} has {piece.Length} characters, more than {MaximumPieceLength}");
        if (!_ids.TryAdd(piece, id)) throw reader.Invalid($"pieces {_ids[piece]} and {id} have the same text");

        _pieces.Add(piece);
        _scores.Add(score);
        _types.Add((PieceType)type);
        if (type == (int)PieceType.Unknown)
        {
            if (UnknownId >= 0) throw reader.Invalid($"pieces {UnknownId} and {id} both have the type unknown");
            UnknownId = id;
        }
        if (type == (int)PieceType.Byte)
        {
            if (!TryParseByte(piece, out var value)) throw reader.Invalid($"piece {id} has the type byte, but not the form <0x00> to <0xFF>");
            _byteIds[value] = id;
        }
    }

    private void ReadTrainerSpec(ProtobufReader reader)
    {
        while (reader.TryReadField(out var field, out var wireType))
        {
            switch (field)
            {
                case 3: _modelType = reader.ReadInt32(wireType); break;
                case 24: _suffixMode = reader.ReadBoolean(wireType); break;
                case 35: ByteFallback = reader.ReadBoolean(wireType); break;
                case 41: BosId = reader.ReadInt32(wireType); break;
                case 42: EosId = reader.ReadInt32(wireType); break;
                default: reader.Skip(wireType); break;
            }
        }
    }

    private void ReadNormalizerSpec(ProtobufReader reader)
    {
        while (reader.TryReadField(out var field, out var wireType))
        {
            switch (field)
            {
                case 2 when !reader.ReadBytes(wireType).IsEmpty:
                    throw reader.Invalid("its normaliser has a character map (precompiled_charsmap), which ERNIE's tokenizer does not have and this reader does not apply");
                case 2: break;
                case 3: AddDummyPrefix = reader.ReadBoolean(wireType); break;
                case 4: RemoveExtraWhitespaces = reader.ReadBoolean(wireType); break;
                case 5: EscapeWhitespaces = reader.ReadBoolean(wireType); break;
                default: reader.Skip(wireType); break;
            }
        }
    }

    private static void ReadDenormalizerSpec(ProtobufReader reader)
    {
        while (reader.TryReadField(out var field, out var wireType))
        {
            if (field != 2) reader.Skip(wireType);
            else if (!reader.ReadBytes(wireType).IsEmpty) throw reader.Invalid("its denormaliser has a character map (precompiled_charsmap), which this reader does not apply");
        }
    }

    private void Validate()
    {
        if (PieceCount == 0) throw Invalid(FileName, "it has no pieces");
        if (_modelType != 2)
        {
            var name = _modelType switch { 1 => "unigram", 3 => "word", 4 => "char", _ => _modelType.ToString(CultureInfo.InvariantCulture) };
            throw Invalid(FileName, $"its model type is {name}");
        }
        if (_suffixMode) throw Invalid(FileName, "it treats whitespace as a suffix (treat_whitespace_as_suffix)");
        if (UnknownId < 0) throw Invalid(FileName, "no piece has the type unknown");

        var missing = Array.IndexOf(_byteIds, -1);
        if (ByteFallback && missing >= 0) throw Invalid(FileName, $"it has byte fallback, but no piece <0x{missing:X2}>");
        if (!ByteFallback && Array.Exists(_byteIds, id => id >= 0)) throw Invalid(FileName, "it has byte pieces, but no byte fallback");
    }

    private static bool TryParseByte(string piece, out byte value)
    {
        value = 0;
        return piece.Length == 6 && piece.StartsWith("<0x", StringComparison.Ordinal) && piece[5] == '>'
            && !piece.AsSpan(3, 2).ContainsAnyInRange('a', 'f')
            && byte.TryParse(piece.AsSpan(3, 2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out value);
    }
}
