using Ernie.Sdk.GpuTests;
using Ernie.Sdk.Native;

return await new GpuTestProgram(CudaInstallation.Default, Console.Out, Console.Error).RunAsync(args);
