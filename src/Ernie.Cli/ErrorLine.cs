namespace Ernie.Cli;

/// <summary>One line about an exception, for people.</summary>
internal static class ErrorLine
{
    public static string Of(Exception exception)
    {
        while (exception is AggregateException { InnerException: { } inner }) exception = inner;
        var message = LibraryTerms.OfCommand(exception).ReplaceLineEndings(" ");
        if (exception is ArgumentException { ParamName: { Length: > 0 } name }) message = message.Replace($" (Parameter '{name}')", "", StringComparison.Ordinal);
        return IsExpected(exception) ? message : $"unexpected {exception.GetType().Name}: {message} (--log-level debug shows where)";
    }

    /// <summary>What the library throws about its input; anything else is a fault of the program.</summary>
    public static bool IsExpected(Exception exception) =>
        exception is InvalidDataException or NotSupportedException or IOException or UnauthorizedAccessException or ArgumentException or InvalidOperationException or OutOfMemoryException;
}
