using Ernie.Sdk.Native;

namespace Ernie.Sdk.GpuTests.Models;

/// <summary>Device memory that is taken so that others have none.</summary>
internal sealed class Ballast : IDisposable
{
    private readonly List<CudaMemory> _pieces = [];

    /// <param name="context">Whose memory.</param>
    /// <param name="left">Bytes that stay free, about.</param>
    public static Ballast Fill(CudaContext context, long left)
    {
        var ballast = new Ballast();
        for (var size = 1L << 30; size >= 1 << 20;)
        {
            if (context.FreeBytes() - left < size)
            {
                size /= 2;
                continue;
            }
            try
            {
                ballast._pieces.Add(context.Allocate(size));
            }
            catch (CudaException e) when (e.IsOutOfMemory)
            {
                size /= 2;
            }
        }
        return ballast;
    }

    public void Dispose() => _pieces.ForEach(static piece => piece.Dispose());
}
