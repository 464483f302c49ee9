//  Residual and RMS norm
//      x, a, b  [rows, columns]   float     a and b, or b alone, may be null
//      weight   [columns]         float
//      sum      [rows, columns]   float     x + (a + b); may be null
//      out      [rows, columns]   float
//      codes    [rows, columns'] int8 and scales [rows, columns' / 32]: out as packed products read it (linear.cu); may be null
//  Math       out = sum / sqrt(mean(sum²) + epsilon) · weight
//  Reference  Kernels/Reference/ReferenceNorm.cs
//  Tolerance  2e-6 relative: squares are added in float, by a tree
//
//  A thread has four neighbouring columns of every 1,024, in registers: at most 8,192 columns.

#define PIECES 8

DEVICE void store_four(const Four& four, float* row, int column, int columns)
{
    if (columns % 4 == 0)
    {
        if (column < columns) *(Four*)(row + column) = four;
        return;
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        if (column + i < columns) row[column + i] = four.values[i];
    }
}

// As quantise of device.cuh: a block of 32 columns is that of 8 lanes.
DEVICE void quantise(const Four& four, int column, int columns, s8* codes, BlockScale* scales)
{
    float largest = 0;
    bool poisoned = false;
    UNROLL for (int i = 0; i < 4; i++)
    {
        largest = larger(largest, magnitude(four.values[i]));
        poisoned |= !is_finite(four.values[i]);
    }
    UNROLL for (int lanes = 4; lanes > 0; lanes >>= 1) largest = larger(largest, shuffle_xor(largest, lanes));
    poisoned = (ballot(poisoned) >> (lane_index() & 24) & 255) != 0;
    int q[4] = {}, sum = 0;
    if (!poisoned && largest >= 7.8886090522101181e-31f)
    {
        UNROLL for (int i = 0; i < 4; i++) q[i] = (int)round_even(four.values[i] * (127 / largest));
    }
    else
    {
        largest = poisoned ? not_a_number() : 0;
    }
    UNROLL for (int i = 0; i < 4; i++) sum += q[i];
    UNROLL for (int lanes = 4; lanes > 0; lanes >>= 1) sum += (int)shuffle_xor((u32)sum, lanes);
    if (column >= (columns + 31) / 32 * 32) return;
    *(u32*)(codes + column) = (u32)(q[0] & 255) | (u32)(q[1] & 255) << 8 | (u32)(q[2] & 255) << 16 | (u32)(q[3] & 255) << 24;
    if (lane_index() % 8 == 0) scales[column / 32] = {largest * (1 / 127.0f), sum};
}

// grid rows; block 256; shared 32
KERNEL(256) add_rms_norm(const float* x, const float* a, const float* b, const float* weight, float* sum_out, float* out, s8* codes, BlockScale* scales, int columns, float epsilon)
{
    await_previous();
    const s64 row = (s64)block_x() * columns;
    Four values[PIECES], first[PIECES], second[PIECES];
    // All of it is asked for before any is used.
    UNROLL for (int p = 0; p < PIECES; p++)
    {
        const int column = p * 1024 + thread_x() * 4;
        values[p] = first[p] = second[p] = {};
        if (p * 1024 >= columns) continue;
        values[p] = load_four(x + row, column, columns);
        if (a) first[p] = load_four(a + row, column, columns);
        if (b) second[p] = load_four(b + row, column, columns);
    }
    float squares = 0;
    UNROLL for (int p = 0; p < PIECES; p++)
    {
        UNROLL for (int i = 0; i < 4; i++)
        {
            if (b) first[p].values[i] += second[p].values[i];
            if (a) values[p].values[i] += first[p].values[i];
            squares = fused(values[p].values[i], values[p].values[i], squares);
        }
        if (sum_out && p * 1024 < columns) store_four(values[p], sum_out + row, p * 1024 + thread_x() * 4, columns);
    }
    squares = warp_sum(squares);
    float* sums = shared<float>();
    if (lane_index() == 0) sums[warp_index()] = squares;
    sync_threads();
    float total = 0;
    UNROLL for (int w = 0; w < 8; w++) total += sums[w];
    const float scale = 1 / __builtin_sqrtf(total / (float)columns + epsilon);
    const s64 blocks = (columns + 31) / 32;
    UNROLL for (int p = 0; p < PIECES; p++)
    {
        const int column = p * 1024 + thread_x() * 4;
        if (p * 1024 >= columns) continue;
        const Four weights = load_four(weight, column, columns);
        UNROLL for (int i = 0; i < 4; i++) values[p].values[i] = values[p].values[i] * scale * weights.values[i];
        store_four(values[p], out + row, column, columns);
        if (codes) quantise(values[p], column, columns, codes + block_x() * blocks * 32, scales + block_x() * blocks);
    }
}
