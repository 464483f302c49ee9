global using Ernie.Sdk.GpuTests.Cases;
global using Ernie.Sdk.Tests.Support;
global using Xunit;
