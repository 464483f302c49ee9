using System.Text;

namespace Ernie.Sdk.Tokenization;

/// <summary>
/// Turns ids into text as they come. Bytes of one character are held back until it is whole, so no piece of text ends within a character. Bytes
/// that are no UTF-8 give one U+FFFD each, as SentencePiece does. Ids without a token give nothing. Not safe for concurrent use.
/// </summary>
internal sealed class StreamingDecoder(ErnieTokenizer tokenizer, bool skipSpecialTokens)
{
    private readonly StringBuilder _text = new();
    private readonly byte[] _pending = new byte[4];
    private bool _atRunStart = true;

    /// <summary>Tokens whose bytes wait for the rest of their character.</summary>
    public int PendingCount { get; private set; }

    public string Append(int id)
    {
        Push(id);
        return Take();
    }

    /// <summary>The text of incomplete characters, after which the decoder is as new.</summary>
    public string Finish()
    {
        FlushPending();
        _atRunStart = true;
        return Take();
    }

    /// <summary>As <see cref="Append"/>, but the text stays inside until <see cref="Take"/>.</summary>
    public void Push(int id)
    {
        if (tokenizer.TryGetByte(id, out var value))
        {
            _pending[PendingCount++] = value;
            _atRunStart = false;
            DrainPending();
            return;
        }
        FlushPending();
        if (tokenizer.TryGetAdded(id, out var added))
        {
            if (!added.IsSpecial || !skipSpecialTokens) _text.Append(added.Content);
            _atRunStart = true;
        }
        else if (tokenizer.TryGetPiece(id, out var piece))
        {
            AppendPiece(piece);
        }
    }

    public string Take()
    {
        if (_text.Length == 0) return "";
        var text = _text.ToString();
        _text.Clear();
        return text;
    }

    private void AppendPiece(string piece)
    {
        var text = piece.AsSpan();
        if (_atRunStart)
        {
            // What encoding put before the text, or would have removed there, does not come back.
            if (tokenizer.Model.RemoveExtraWhitespaces) text = text.TrimStart(WhitespaceNormalizer.SpaceMark);
            else if (tokenizer.Model.AddDummyPrefix && text[0] == WhitespaceNormalizer.SpaceMark) text = text[1..];
            _atRunStart = false;
        }
        for (var mark = text.IndexOf(WhitespaceNormalizer.SpaceMark); mark >= 0; mark = text.IndexOf(WhitespaceNormalizer.SpaceMark))
        {
            _text.Append(text[..mark]).Append(' ');
            text = text[(mark + 1)..];
        }
        _text.Append(text);
    }

    /// <summary>Emits whole characters; keeps a beginning that may still become one.</summary>
    private void DrainPending()
    {
        Span<char> utf16 = stackalloc char[2];
        while (PendingCount > 0)
        {
            var status = Rune.DecodeFromUtf8(_pending.AsSpan(0, PendingCount), out var rune, out var consumed);
            if (status == System.Buffers.OperationStatus.NeedMoreData) return;
            if (status == System.Buffers.OperationStatus.Done)
            {
                _text.Append(utf16[..rune.EncodeToUtf16(utf16)]);
                Drop(consumed);
            }
            else
            {
                _text.Append('\uFFFD');
                Drop(1);
            }
        }
    }

    private void FlushPending()
    {
        _text.Append('\uFFFD', PendingCount);
        PendingCount = 0;
    }

    private void Drop(int count)
    {
        PendingCount -= count;
        _pending.AsSpan(count, PendingCount).CopyTo(_pending);
    }
}
