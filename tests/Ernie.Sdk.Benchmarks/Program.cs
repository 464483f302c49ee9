using Ernie.Sdk.Benchmarks;

if (args is not ["kernels", .. var names])
{
    Console.Error.WriteLine("Usage: dotnet run -c Release --project tests/Ernie.Sdk.Benchmarks -- kernels [avx512|avx2|vector128 ...] [bf16|int8/128|int4/128|int4/32|int2 ...]");
    return 2;
}
return KernelBenchmark.Run(names);
