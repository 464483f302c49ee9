using System.Buffers;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;

namespace Ernie.Cli;

/// <summary>Writes JSON lines to standard output, around the progress line of a shared terminal.</summary>
internal sealed class JsonLineWriter(TextWriter output, ProgressLine? progress, bool flushEachLine) : IDisposable
{
    private readonly ArrayBufferWriter<byte> _bytes = new();
    private readonly Utf8JsonWriter _json = new(Stream.Null, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping });

    /// <summary>Writes one object, whose members <paramref name="members"/> writes.</summary>
    public void Write(Action<Utf8JsonWriter> members)
    {
        _bytes.ResetWrittenCount();
        _json.Reset(_bytes);
        _json.WriteStartObject();
        members(_json);
        _json.WriteEndObject();
        _json.Flush();
        progress?.Clear();
        output.Write(Encoding.UTF8.GetString(_bytes.WrittenSpan));
        output.Write('\n');
        if (flushEachLine) output.Flush();
    }

    public void WriteIds(IEnumerable<int> ids) => Write(json =>
    {
        json.WriteStartArray("ids");
        foreach (var id in ids) json.WriteNumberValue(id);
        json.WriteEndArray();
    });

    public void Dispose() => _json.Dispose();
}
