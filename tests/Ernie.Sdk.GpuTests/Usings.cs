global using Ernie.Sdk.GpuTests.Cases;
global using Ernie.Cli.Measuring.Cards;
