//  What a card can do, to measure kernels by
//      read_all     [units] of 16 bytes: the exclusive or of all words of each thread
//      multiply_all bfloat16 ones by ones from registers, rounds times: sums that are known

struct __attribute__((aligned(16))) Quad { u32 word[4]; };

// grid any; block 256; shared 0. out [grid · 256]
KERNEL(256) read_all(const Quad* x, int units, int grid, u32* out)
{
    const s64 stride = (s64)grid * 256;
    s64 i = (s64)block_x() * 256 + thread_x();
    u32 all = 0;
    // Four loads are under way at once.
    for (; i + 3 * stride < units; i += 4 * stride)
    {
        const Quad a = x[i], b = x[i + stride], c = x[i + 2 * stride], d = x[i + 3 * stride];
        UNROLL for (int w = 0; w < 4; w++) all ^= a.word[w] ^ b.word[w] ^ c.word[w] ^ d.word[w];
    }
    for (; i < units; i += stride)
    {
        const Quad a = x[i];
        UNROLL for (int w = 0; w < 4; w++) all ^= a.word[w];
    }
    out[block_x() * 256 + thread_x()] = all;
}

// grid any; block 256; shared 0. out [grid · 256]: 512 · rounds each. Eight products of [16, 16] by [16, 8] are under way in a warp.
KERNEL(256) multiply_all(int rounds, float* out)
{
    float c[8][4];
    UNROLL for (int i = 0; i < 8; i++) UNROLL for (int j = 0; j < 4; j++) c[i][j] = 0;
    const u32 one = 0x3f803f80u;
    const u32 a[4] = { one, one, one, one }, b[2] = { one, one };
    for (int r = 0; r < rounds; r++)
    {
        UNROLL for (int i = 0; i < 8; i++) mma_bf16(c[i], a, b);
    }
    float sum = 0;
    UNROLL for (int i = 0; i < 8; i++) UNROLL for (int j = 0; j < 4; j++) sum += c[i][j];
    out[block_x() * 256 + thread_x()] = sum;
}
