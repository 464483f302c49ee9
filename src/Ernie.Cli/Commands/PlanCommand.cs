using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Ernie.Sdk;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie plan</c>: what a model takes on GPUs.</summary>
internal static class PlanCommand
{
    /// <summary>Contexts whose number of conversations is told beside the one that was asked for.</summary>
    private static readonly int[] s_contexts = [4096, 32768, 131072];
    private static readonly int[] s_requests = [1, 4, 16, 64];

    public static Command Create(CommandStreams streams)
    {
        var model = new Argument<string?>("MODEL") { Description = "An exported model, or a checkpoint.", Arity = ArgumentArity.ZeroOrOne };
        var shape = new Option<string?>("--shape") { Description = "Architecture of a released model, in place of MODEL." }.AcceptOnlyFromAmong(SyntheticShape.Names);
        var experts = CommonOptions.Experts("Of an exported model they are what they are. [default: as a quantised checkpoint holds them, else int4]");
        var dense = CommonOptions.Dense("[default: as a quantised checkpoint holds them, else int4]");
        var group = CommonOptions.Group();
        var int4Layers = CommonOptions.Numbers("--int4-layers", "Layers whose routed experts are int4 where --experts is int2; the first layer is 0.", "", 4096, least: 0);
        var gpu = CommonOptions.Bytes("--gpu", "Memory of one GPU, such as 80GB or 24GiB.", required: true);
        var gpuCount = new Option<int>("--gpu-count") { Description = "GPUs that the model's layers are divided over.", DefaultValueFactory = static _ => 1, HelpName = "N" }.InRange(1, 1024);
        var context = new Option<int?>("--context") { Description = "Tokens of each conversation. [default: the model's context, 131072]", HelpName = "N" };
        var requests = new Option<int>("--requests") { Description = "Conversations at once.", DefaultValueFactory = static _ => 1, HelpName = "N" }.InRange(1, 1 << 20);
        var kv = new Option<string>("--kv") { Description = "Element type of cached keys and values.", DefaultValueFactory = static _ => "bf16" }.AcceptOnlyFromAmong("fp32", "bf16", "int8");
        var chunk = new Option<int>("--chunk") { Description = "Prompt tokens computed at once.", DefaultValueFactory = static _ => 512, HelpName = "N" }.InRange(1, 1 << 20);
        var reserve = CommonOptions.Bytes("--reserve", "What is left free on each GPU. [default: 1 GiB and 2 % of the GPU]");
        var json = new Option<bool>("--json") { Description = "Write JSON." };
        var command = new DocumentedCommand("plan", "Says what a model takes on GPUs, and what stays on the CPU.",
            "Weights, KV cache, workspace and reserve of each GPU, and which contexts and numbers of conversations that leaves room for. Where it does not fit, routed experts stay on the CPU first, then the embedding and whole layers. "
            + "Sizes of weights and cache are those of an export; workspace and reserve are estimates. No GPU is asked. GB are 10^9 bytes. Returns 1 where it does not fit even with the CPU's help. "
            + "Of several GPUs each has consecutive layers: they hold more together, but a step goes through them one after another.",
            "ernie plan --shape 300b --experts int4 --gpu 80GB --gpu-count 4", "ernie plan --shape 300b --experts int2 --dense int8 --int4-layers 3,4,5,6 --group channel --gpu 141GB", "ernie plan samples/ernie-tiny-moe --gpu 8GB --kv int8")
        { model, shape, experts, dense, group, int4Layers, gpu, gpuCount, context, requests, kv, chunk, reserve, json };
        command.Validators.Add(result =>
        {
            if ((result.GetValue(model) is null) == (result.GetValue(shape) is null)) result.AddError("Name a MODEL, or a released one with --shape, and not both.");
            if (result.GetValue(context) is < 1) result.AddError("--context must be at least 1.");
        });
        command.SetAction(result =>
        {
            var options = new ErniePlanOptions
            {
                GpuBytes = Size.Parse(result.GetValue(gpu)!),
                GpuCount = result.GetValue(gpuCount),
                ContextLength = result.GetValue(context),
                Requests = result.GetValue(requests),
                KvCacheType = CommonOptions.KvCacheTypeOf(result.GetValue(kv)!),
                PrefillChunkTokens = result.GetValue(chunk),
                ReserveBytes = result.GetValue(reserve) is { } text ? Size.Parse(text) : null,
                Export = new ErnieExportOptions
                {
                    Experts = CommonOptions.PrecisionOf(result.GetValue(experts)),
                    Dense = CommonOptions.PrecisionOf(result.GetValue(dense)),
                    GroupSize = CommonOptions.GroupOf(result.GetValue(group)!),
                    Int4Layers = CommonOptions.NumbersOf(result.GetValue(int4Layers)!),
                },
            };
            ErniePlan plan;
            try
            {
                plan = result.GetValue(shape) is { } name ? ErniePlan.ForRelease(SyntheticShape.ReleaseOf(name), options) : ErniePlan.ForModel(result.GetValue(model)!, options);
            }
            catch (OverflowException)
            {
                throw new ArgumentException("No numbers are large enough for that: --requests, --context or --chunk is too large.");
            }
            if (result.GetValue(json)) streams.Out.WriteLine(Json(plan));
            else foreach (var line in Lines(plan, result.GetValue(shape) ?? result.GetValue(model)!, result.GetValue(kv)!)) streams.Out.WriteLine(line);
            return plan.Fits ? ExitCode.Success : ExitCode.BadInput;
        });
        return command;
    }

    private static IEnumerable<string> Lines(ErniePlan plan, string name, string kv)
    {
        yield return $"Model           {name}: {plan.Precision}";
        yield return string.Create(CultureInfo.InvariantCulture, $"Weights         {Gigabytes(plan.WeightBytes)}, {Gigabytes(plan.WeightFileBytes)} on disk");
        yield return string.Create(CultureInfo.InvariantCulture, $"KV cache        {Gigabytes(plan.KvCacheBytes)} in {kv}: {plan.Requests} x {plan.ContextLength:N0} tokens");
        yield return "";
        foreach (var line in Table(plan)) yield return line;
        yield return "";
        if (!plan.Fits)
        {
            yield return plan.Gpus.Count == 1
                ? "Does not fit: with every layer but the last on the CPU, that layer, head, workspace and reserve still exceed the GPU."
                : "Does not fit: with every layer but one for each GPU on the CPU, that layer, workspace and reserve still exceed a GPU.";
            yield return "Larger GPUs, a shorter --context, fewer --requests, --kv int8, a smaller --chunk or fewer bits (--experts, --dense) need less of a GPU.";
        }
        else if (plan.IsWhollyOnGpus) yield return "Everything fits on the GPUs.";
        else
        {
            yield return string.Create(CultureInfo.InvariantCulture, $"On the CPU      {Gigabytes(plan.CpuWeightBytes)} of weights{(plan.CpuKvCacheBytes > 0 ? $", {Gigabytes(plan.CpuKvCacheBytes)} of KV cache" : "")}");
            if (plan.CpuExperts.Count > 0) yield return $"  experts       {plan.DescribeCpuExperts()}";
            if (plan.CpuLayers.Count > 0) yield return string.Create(CultureInfo.InvariantCulture, $"  layers        {Run(plan.CpuLayers[0], plan.CpuLayers[^1])} altogether, and the embedding");
        }
        if (!plan.Fits) yield break;
        yield return "";
        yield return "Room, with weights as above:";
        var longest = plan.MaxContextLength(1);
        foreach (var context in s_contexts.Append(plan.ContextLength).Where(context => context <= longest).Distinct().Order()) yield return string.Create(CultureInfo.InvariantCulture, $"  {context,9:N0} tokens x {Conversations(plan.MaxRequests(context))}");
        foreach (var requests in s_requests)
        {
            if (plan.MaxContextLength(requests) is > 0 and var tokens) yield return string.Create(CultureInfo.InvariantCulture, $"  {requests,9:N0} conversation{(requests == 1 ? "" : "s")} of up to {tokens:N0} tokens");
        }
    }

    /// <summary>A line for each GPU, in columns as wide as they must be.</summary>
    private static IEnumerable<string> Table(ErniePlan plan)
    {
        string[][] rows =
        [
            ["GPU", "layers", "weights", "KV cache", "workspace", "reserve", "free", "of"],
            .. plan.Gpus.Select(static (gpu, i) => (string[])
            [
                i.ToString(CultureInfo.InvariantCulture), Layers(gpu), Gigabytes(gpu.WeightBytes), Gigabytes(gpu.KvCacheBytes), Gigabytes(gpu.WorkspaceBytes), Gigabytes(gpu.ReserveBytes), Gigabytes(gpu.FreeBytes), Gigabytes(gpu.CapacityBytes),
            ]),
        ];
        var widths = Enumerable.Range(0, rows[0].Length).Select(column => rows.Max(row => row[column].Length)).ToList();
        return rows.Select(row => string.Join("   ", row.Select((cell, column) => column == 0 ? cell.PadRight(widths[column]) : cell.PadLeft(widths[column]))));
    }

    private static string Layers(ErnieGpuPlan gpu) => string.Create(CultureInfo.InvariantCulture, $"{gpu.FirstLayer}{(gpu.LayerCount == 1 ? "" : $"-{gpu.FirstLayer + gpu.LayerCount - 1}")}");

    private static string Conversations(long count) => string.Create(CultureInfo.InvariantCulture, $"{count:N0} conversation{(count == 1 ? "" : "s")}");

    private static string Run(int first, int last) => first == last ? string.Create(CultureInfo.InvariantCulture, $"layer {first}") : string.Create(CultureInfo.InvariantCulture, $"layers {first}-{last}");

    /// <summary>One unit for all, so that columns can be compared; a small model's parts have a digit more.</summary>
    private static string Gigabytes(long bytes) => string.Create(CultureInfo.InvariantCulture, $"{(Math.Abs(bytes) >= 100_000_000 || bytes == 0 ? $"{bytes / 1e9:F2}" : $"{bytes / 1e9:F4}")} GB");

    private static string Json(ErniePlan plan)
    {
        using var buffer = new MemoryStream();
        using (var writer = new Utf8JsonWriter(buffer, new JsonWriterOptions { Indented = true }))
        {
            writer.WriteStartObject();
            writer.WriteBoolean("fits", plan.Fits);
            writer.WriteString("precision", plan.Precision);
            writer.WriteNumber("weight_bytes", plan.WeightBytes);
            writer.WriteNumber("weight_file_bytes", plan.WeightFileBytes);
            writer.WriteNumber("kv_cache_bytes", plan.KvCacheBytes);
            writer.WriteNumber("context", plan.ContextLength);
            writer.WriteNumber("requests", plan.Requests);
            writer.WriteStartArray("gpus");
            foreach (var gpu in plan.Gpus)
            {
                writer.WriteStartObject();
                writer.WriteNumber("first_layer", gpu.FirstLayer);
                writer.WriteNumber("layer_count", gpu.LayerCount);
                writer.WriteNumber("weight_bytes", gpu.WeightBytes);
                writer.WriteNumber("kv_cache_bytes", gpu.KvCacheBytes);
                writer.WriteNumber("workspace_bytes", gpu.WorkspaceBytes);
                writer.WriteNumber("reserve_bytes", gpu.ReserveBytes);
                writer.WriteNumber("free_bytes", gpu.FreeBytes);
                writer.WriteNumber("capacity_bytes", gpu.CapacityBytes);
                writer.WriteEndObject();
            }
            writer.WriteEndArray();
            writer.WriteStartObject("cpu");
            writer.WriteNumber("weight_bytes", plan.CpuWeightBytes);
            writer.WriteNumber("kv_cache_bytes", plan.CpuKvCacheBytes);
            writer.WriteStartObject("experts");
            foreach (var (layer, count) in plan.CpuExperts) writer.WriteNumber(layer.ToString(CultureInfo.InvariantCulture), count);
            writer.WriteEndObject();
            writer.WriteStartArray("layers");
            foreach (var layer in plan.CpuLayers) writer.WriteNumberValue(layer);
            writer.WriteEndArray();
            writer.WriteEndObject();
            writer.WriteNumber("max_requests", plan.MaxRequests(plan.ContextLength));
            writer.WriteNumber("max_context", plan.MaxContextLength(plan.Requests));
            writer.WriteEndObject();
        }
        return System.Text.Encoding.UTF8.GetString(buffer.ToArray());
    }
}
