namespace DesktopChat;

/// <summary>The command line: <c>[--model PATH] [--think] [--browser PATH|none]</c>.</summary>
/// <param name="Model">Folder of a checkpoint or an exported model.</param>
/// <param name="Think">Whether the model's thinking format is used where it has two.</param>
/// <param name="Browser">The browser that shows the window; null for one that is installed, <see cref="NoBrowser"/> to print the address only.</param>
internal sealed record Arguments(string Model, bool Think, string? Browser)
{
    public const string NoBrowser = "none";

    private static readonly string s_tinyModel = Path.Combine(AppContext.BaseDirectory, "ernie-tiny-moe");

    public static bool TryParse(string[] args, out Arguments arguments)
    {
        arguments = new Arguments(s_tinyModel, Think: false, Browser: null);
        for (var i = 0; i < args.Length; i++)
        {
            if (args[i] == "--think") arguments = arguments with { Think = true };
            else if (args[i] == "--model" && i + 1 < args.Length) arguments = arguments with { Model = args[++i] };
            else if (args[i] == "--browser" && i + 1 < args.Length) arguments = arguments with { Browser = args[++i] };
            else
            {
                Console.Error.WriteLine("Usage: DesktopChat [--model PATH] [--think] [--browser PATH|none]");
                return false;
            }
        }
        return true;
    }
}
