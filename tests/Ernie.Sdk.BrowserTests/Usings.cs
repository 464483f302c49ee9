global using Ernie.Sdk.Tests.Support;
global using Microsoft.Playwright;
global using Xunit;
