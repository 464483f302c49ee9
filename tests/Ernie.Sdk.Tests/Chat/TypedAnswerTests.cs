using System.ComponentModel.DataAnnotations;
using System.Text.Json;
using Microsoft.Extensions.AI;

namespace Ernie.Sdk.Tests.Chat;

/// <summary>Answers as types of .NET, written by a model that has never seen such documents and at temperatures that leave it no opinion: all of them can be read.</summary>
public sealed class TypedAnswerTests : TinyChat
{
    [Theory]
    [MemberData(nameof(Types))]
    public async Task AnAnswer_IsReadAsItsType(Type type)
    {
        var ask = typeof(TypedAnswerTests).GetMethod(nameof(AskAsync), System.Reflection.BindingFlags.NonPublic | System.Reflection.BindingFlags.Instance)!.MakeGenericMethod(type);
        for (var seed = 0; seed < 8; seed++) await (Task)ask.Invoke(this, [seed])!;
    }

    public static TheoryData<Type> Types() =>
    [
        typeof(bool), typeof(int), typeof(long), typeof(Int128), typeof(float), typeof(double), typeof(decimal), typeof(char), typeof(string), typeof(Guid), typeof(DateTime), typeof(DateTimeOffset), typeof(DateOnly),
        typeof(TimeOnly), typeof(TimeSpan), typeof(Uri), typeof(Version), typeof(DayOfWeek), typeof(bool?), typeof(int?), typeof(long?), typeof(float?), typeof(double?), typeof(decimal?), typeof(char?), typeof(Guid?),
        typeof(DateTime?), typeof(DateOnly?), typeof(TimeOnly?), typeof(TimeSpan?), typeof(DayOfWeek?), typeof(int[]), typeof(Dictionary<string, decimal>), typeof(Everything), typeof(Small), typeof(object),
    ];

    /// <summary>Nothing in their schemas says how little they hold: what lies beyond is an exception of the reader.</summary>
    [Fact]
    public async Task ASmallInteger_WithoutARange_IsOneOf32Bits()
    {
        for (var seed = 0; seed < 12; seed++)
        {
            var response = await Client.GetResponseAsync<byte>(Question, Options(seed), cancellationToken: Token);
            using var document = JsonDocument.Parse(response.Text);
            var number = document.RootElement.GetProperty("data").GetInt32();
            Assert.Equal(number is >= 0 and <= 255, response.TryGetResult(out _));
        }
    }

    private static ChatOptions Options(int seed, int most = 60) => new() { MaxOutputTokens = most, Temperature = seed * 4, TopP = 1, Seed = seed };

    private async Task AskAsync<T>(int seed)
    {
        var response = await Client.GetResponseAsync<T>(Question, Options(seed, typeof(T) == typeof(Everything) ? 1000 : 150), cancellationToken: Token);
        using var document = JsonDocument.Parse(response.Text);
        // A null is not an answer to Microsoft.Extensions.AI, whatever the type.
        if (default(T) is null && document.RootElement.TryGetProperty("data", out var data) && data.ValueKind == JsonValueKind.Null) return;
        var error = Record.Exception(() => response.Result);
        Assert.True(error is null, $"{typeof(T).Name}, seed {seed}: {response.Text}\n{error}");
    }

    internal sealed record Everything(
        bool Bool, int Int, long Long, float Float, double Double, decimal Decimal, char Char, string String, Guid Guid, DateTime DateTime, DateTimeOffset DateTimeOffset, DateOnly DateOnly, TimeOnly TimeOnly, TimeSpan TimeSpan,
        Uri Uri, DayOfWeek Enum, [property: Base64String] byte[] Bytes, int? NullableInt, TimeSpan? NullableTimeSpan, char? NullableChar, DayOfWeek? NullableEnum, IReadOnlyList<Small> List);

    internal sealed record Small(
        [property: Range(byte.MinValue, byte.MaxValue)] byte Byte, [property: Range(sbyte.MinValue, sbyte.MaxValue)] sbyte SByte, [property: Range(short.MinValue, short.MaxValue)] short Short,
        [property: Range(ushort.MinValue, ushort.MaxValue)] ushort UShort, [property: Range(0, int.MaxValue)] uint UInt, [property: Range(0, int.MaxValue)] ulong ULong, [property: Range(0, 9e15)] long Large);
}
