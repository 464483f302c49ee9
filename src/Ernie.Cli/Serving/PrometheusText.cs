using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using System.Globalization;
using System.Text;
using Ernie.Sdk.Engine;

namespace Ernie.Cli.Serving;

/// <summary>Listens to the library's meter and writes what it heard as Prometheus' text format 0.0.4.</summary>
internal sealed class PrometheusText : IDisposable
{
    private readonly MeterListener _listener = new();
    private readonly ConcurrentDictionary<Instrument, ConcurrentDictionary<string, Series>> _instruments = new();
    private readonly Lock _scrape = new();

    public PrometheusText()
    {
        _listener.InstrumentPublished = (instrument, listener) =>
        {
            if (instrument.Meter.Name != ExpertMetrics.MeterName) return;
            _instruments.TryAdd(instrument, new());
            listener.EnableMeasurementEvents(instrument);
        };
        _listener.SetMeasurementEventCallback<double>((instrument, value, tags, _) => Record(instrument, value, tags));
        _listener.SetMeasurementEventCallback<long>((instrument, value, tags, _) => Record(instrument, value, tags));
        _listener.SetMeasurementEventCallback<int>((instrument, value, tags, _) => Record(instrument, value, tags));
        _listener.Start();
    }

    public string Write()
    {
        var text = new StringBuilder();
        // Observed values are asked for anew: a model that is gone leaves no series behind.
        lock (_scrape)
        {
            foreach (var (instrument, series) in _instruments)
            {
                if (instrument.IsObservable) series.Clear();
            }
            _listener.RecordObservableInstruments();
            foreach (var (instrument, series) in _instruments.OrderBy(static pair => pair.Key.Name, StringComparer.Ordinal))
            {
                if (!series.IsEmpty) Write(text, instrument, series);
            }
        }
        return text.ToString();
    }

    public void Dispose() => _listener.Dispose();

    private static void Write(StringBuilder text, Instrument instrument, ConcurrentDictionary<string, Series> all)
    {
        var kind = instrument.GetType().Name;
        var type = kind.StartsWith("Histogram", StringComparison.Ordinal) ? "histogram" : kind.Contains("Counter", StringComparison.Ordinal) ? "counter" : "gauge";
        var name = instrument.Name.Replace('.', '_') + (instrument.Unit == "s" ? "_seconds" : "") + (type == "counter" ? "_total" : "");
        text.Append("# HELP ").Append(name).Append(' ').Append(instrument.Description).Append('\n');
        text.Append("# TYPE ").Append(name).Append(' ').Append(type).Append('\n');
        foreach (var (labels, series) in all.OrderBy(static pair => pair.Key, StringComparer.Ordinal))
        {
            lock (series)
            {
                if (type != "histogram")
                {
                    Line("", labels, series.Sum);
                    continue;
                }
                var count = 0L;
                for (var i = 0; i <= series.Boundaries.Count; i++)
                {
                    count += series.Counts[i];
                    var bound = i < series.Boundaries.Count ? series.Boundaries[i].ToString(CultureInfo.InvariantCulture) : "+Inf";
                    Line("_bucket", $"{labels}{(labels.Length > 0 ? "," : "")}le=\"{bound}\"", count);
                }
                Line("_sum", labels, series.Sum);
                Line("_count", labels, count);
            }
        }

        void Line(string suffix, string labels, double value)
        {
            text.Append(name).Append(suffix);
            if (labels.Length > 0) text.Append('{').Append(labels).Append('}');
            text.Append(' ').Append(value.ToString("R", CultureInfo.InvariantCulture)).Append('\n');
        }
    }

    private void Record(Instrument instrument, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
    {
        var labels = new StringBuilder();
        foreach (var (key, tag) in tags)
        {
            if (labels.Length > 0) labels.Append(',');
            var escaped = Convert.ToString(tag, CultureInfo.InvariantCulture)!.Replace("\\", "\\\\", StringComparison.Ordinal).Replace("\"", "\\\"", StringComparison.Ordinal).Replace("\n", "\\n", StringComparison.Ordinal);
            labels.Append(key.Replace('.', '_')).Append("=\"").Append(escaped).Append('"');
        }
        var boundaries = (instrument as Histogram<double>)?.Advice?.HistogramBucketBoundaries;
        var series = _instruments[instrument].GetOrAdd(labels.ToString(), _ => new Series(boundaries ?? []));
        lock (series)
        {
            if (boundaries is not null) series.Add(value);
            else if (instrument is Counter<long>) series.Sum += value;
            else series.Sum = value;
        }
    }

    private sealed class Series(IReadOnlyList<double> boundaries)
    {
        public IReadOnlyList<double> Boundaries => boundaries;
        public long[] Counts { get; } = new long[boundaries.Count + 1];
        public double Sum { get; set; }

        public void Add(double value)
        {
            var bucket = 0;
            while (bucket < boundaries.Count && value > boundaries[bucket]) bucket++;
            Counts[bucket]++;
            Sum += value;
        }
    }
}
