using Ernie.Sdk.Benchmarks;

if (args is not ["kernels", .. var families])
{
    Console.Error.WriteLine("Usage: dotnet run -c Release --project tests/Ernie.Sdk.Benchmarks -- kernels [family ...]");
    return 2;
}
return KernelBenchmark.Run(families);
