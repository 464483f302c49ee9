using BenchmarkDotNet.Running;
using Ernie.Sdk.Benchmarks;

if (args is ["kernels", .. var names]) return KernelBenchmark.Run(names);
if (args is ["grammar", var folder]) return GrammarBenchmark.Run(folder);
if (args is ["run", .. var options])
{
    BenchmarkSwitcher.FromTypes([typeof(KernelRuns), typeof(AttentionRuns)]).Run(options);
    return 0;
}
Console.Error.WriteLine("""
    Usage: dotnet run -c Release --project tests/Ernie.Sdk.Benchmarks -- kernels [avx512|avx2|vector128 ...] [bf16|int8/128|int4/128|int4/32|int2 ...]
           dotnet run -c Release --project tests/Ernie.Sdk.Benchmarks -- grammar TOKENIZER_FOLDER
           dotnet run -c Release --project tests/Ernie.Sdk.Benchmarks -- run --filter '*Experts*'      (BenchmarkDotNet and its options)
    """);
return 2;
