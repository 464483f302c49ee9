using System.CommandLine;
using Ernie.Sdk;
using Ernie.Sdk.Export;

namespace Ernie.Cli.Commands;

/// <summary><c>ernie verify</c>: compares an exported model with its checksums.</summary>
internal static class VerifyCommand
{
    public static Command Create(CommandStreams streams)
    {
        var folder = new Argument<string>("MODEL") { Description = "An exported model." };
        var command = new DocumentedCommand("verify", "Checks an exported model.", "Every byte is compared with the manifest's checksums; a difference names the tensor or file.", "ernie verify tiny") { folder };
        command.SetAction(async (result, cancellationToken) =>
        {
            var path = result.GetValue(folder)!;
            if (!Directory.Exists(path)) throw new DirectoryNotFoundException($"There is no folder {path}. Name an exported model.");
            using (var progress = new ProgressLine(streams, "verify")) await ErnieExporter.VerifyAsync(path, progress, cancellationToken).ConfigureAwait(false);
            var manifest = ModelManifest.Read(path);
            await streams.Out.WriteLineAsync($"{path}: {manifest.Tensors.Count} tensors and {manifest.Files.Count} files are as exported.").ConfigureAwait(false);
            return ExitCode.Success;
        });
        return command;
    }
}
