using System.Collections.Concurrent;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Interop;

/// <summary>Functions of the kinds that the shipped model was trained to call, and what they were called with.</summary>
internal sealed class Tools
{
    public Tools()
    {
        Weather = AIFunctionFactory.Create((string location) => Record(location, new Dictionary<string, object> { ["temperature"] = 23, ["condition"] = "snowy" }), "get_weather", "Get the weather of a city.");
        Price = AIFunctionFactory.Create((string item) => Record(item, new Dictionary<string, object> { ["price"] = 383, ["currency"] = "euros" }), "get_price", "Get the price of an item.");
        Clock = AIFunctionFactory.Create((string city) => Record(city, new Dictionary<string, object> { ["time"] = "22:51" }), "clock", "Get the local time of a city.");
        Sum = AIFunctionFactory.Create((double x, double y) => Record($"{x} {y}", new Dictionary<string, object> { ["result"] = x + y }), "calculate_sum", "Add two numbers.");
    }

    public AIFunction Weather { get; }
    public AIFunction Price { get; }
    public AIFunction Clock { get; }
    public AIFunction Sum { get; }
    public AITool[] All => [Weather, Price, Clock, Sum];

    /// <summary>Arguments of all calls, in order.</summary>
    public ConcurrentQueue<string> Calls { get; } = new();

    private Dictionary<string, object> Record(string argument, Dictionary<string, object> result)
    {
        Calls.Enqueue(argument);
        return result;
    }
}
