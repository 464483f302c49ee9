global using Ernie.Sdk.GpuTests.Cases;
