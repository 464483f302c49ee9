global using Ernie.Sdk.Tests.Support;
global using Xunit;
