//  Products of tokens with a matrix, or with a stack of experts' matrices
//      x        [rows, columns]                                float, prepared for the weight: fp32 as it is; bf16 parts [rows, 3, columns'] of bf16, whose sum x is;
//                                                              others codes [rows, columns'] int8 and scales [rows, columns' / 32] (Kernels/QuantizedActivations.cs)
//      weight   [experts, sections, sectionRows, columns]      fp32, bf16 row-major; int8, int4, int2 in panels (Quantization/PanelLayout.cs); each section begins a panel
//      out      [assignments, sections · sectionRows]          float
//  Math       out = x · Wᵀ; columns' is columns rounded up to 32
//  Reference  Kernels/Reference/ReferenceLinear.cs
//  Tolerance  1e-5: sums in float
//
//  Columns are cut in 8 spans of whole blocks of 32. The blocks of a span are added one after another, and the spans in order: where there are few tokens a warp has a span, and the weights of a panel
//  are on their way in 8 warps at once; where there are many (wide) it has all spans of a panel of its own, and 8 panels share the tokens in the cache. That order depends on the number of columns alone,
//  so a token has the same bits alone and among others. Integer products of a block are exact, and three bf16 parts hold all bits of a float.
//
//  Tiles say which tokens a block of threads takes: tile y has positions first .. last - 1 of the order; a position is assignment order[position], which reads row assignment / divisor.
//  Without tiles (null) there is one expert, and position, assignment and row are the same: tile y has the tokens from y · tile size to count - 1.

#define SPANS 8

struct Tile { int expert, first, last, unused; };
struct BlockScale { float scale; int sum; };

// x, 32 values of a warp, as codes and a scale.
DEVICE void quantise(float x, s8* code, BlockScale* scale)
{
    float largest = warp_largest(magnitude(x));
    const bool poisoned = ballot(!is_finite(x)) != 0;
    int q = 0;
    if (!poisoned && largest >= 7.8886090522101181e-31f) q = (int)round_even(x * (127 / largest));
    else largest = poisoned ? not_a_number() : 0;
    *code = (s8)q;
    UNROLL for (int lanes = 16; lanes > 0; lanes >>= 1) q += (int)shuffle_xor((u32)q, lanes);
    if (lane_index() == 0) *scale = {largest * (1 / 127.0f), q};
}

// grid (rows, columns' / 32 / 8 rounded up); block 256; shared 0
KERNEL(256) quantise_rows(const float* x, int columns, s8* codes, BlockScale* scales)
{
    const int blocks = (columns + 31) / 32, block = block_y() * 8 + warp_index();
    if (block >= blocks) return;
    const s64 row = block_x();
    const int column = block * 32 + lane_index();
    quantise(column < columns ? x[row * columns + column] : 0, codes + (row * blocks + block) * 32 + lane_index(), scales + row * blocks + block);
}

// gate_up [rows, 2 · columns]: silu of the first half times the second, quantised
// grid (rows, columns' / 32 / 8 rounded up); block 256; shared 0
KERNEL(256) swiglu_quantise_rows(const float* gate_up, int columns, s8* codes, BlockScale* scales)
{
    const int blocks = (columns + 31) / 32, block = block_y() * 8 + warp_index();
    if (block >= blocks) return;
    const s64 row = block_x();
    const int column = block * 32 + lane_index();
    const float* values = gate_up + row * 2 * columns + column;
    quantise(column < columns ? silu(values[0]) * values[columns] : 0, codes + (row * blocks + block) * 32 + lane_index(), scales + row * blocks + block);
}

// grid (rows, columns / 256 rounded up); block 256; shared 0
KERNEL(256) swiglu_rows(const float* gate_up, int columns, float* out)
{
    const s64 row = block_x();
    const int column = block_y() * 256 + thread_x();
    if (column >= columns) return;
    const float* values = gate_up + row * 2 * columns + column;
    out[row * columns + column] = silu(values[0]) * values[columns];
}

// x as three bf16, each the upper half of what the ones before it left.
DEVICE void split(float x, u16* parts, int stride)
{
    UNROLL for (int part = 0; part < 3; part++)
    {
        parts[part * stride] = (u16)(float_bits(x) >> 16);
        x -= bits_float(float_bits(x) & 0xffff0000u);
    }
}

// grid (rows, columns' / 256 rounded up); block 256; shared 0
KERNEL(256) split_rows(const float* x, int columns, u16* parts)
{
    const int padded = (columns + 31) / 32 * 32, column = block_y() * 256 + thread_x();
    const s64 row = block_x();
    if (column < padded) split(column < columns ? x[row * columns + column] : 0, parts + row * 3 * padded + column, padded);
}

// grid (rows, columns' / 256 rounded up); block 256; shared 0
KERNEL(256) swiglu_split_rows(const float* gate_up, int columns, u16* parts)
{
    const int padded = (columns + 31) / 32 * 32, column = block_y() * 256 + thread_x();
    const s64 row = block_x();
    const float* values = gate_up + row * 2 * columns + column;
    if (column < padded) split(column < columns ? silu(values[0]) * values[columns] : 0, parts + row * 3 * padded + column, padded);
}

DEVICE Tile tile_of(const Tile* tiles, int count, int size)
{
    if (tiles) return tiles[block_y()];
    return {0, block_y() * size, least(count, (block_y() + 1) * size), 0};
}

DEVICE int assignment_of(const int* order, int position) { return order ? order[position] : position; }

// What a lane (g = lane / 4, t = lane % 4) holds of a block of 16 rows and 32 columns: rows 2g and 2g + 1, columns 8t .. 8t + 7, in mma's places (0, 2 and 1, 3).
struct Int4
{
    static const int Offset = 8;
    const u8* codes;
    const u8* scales;
    float row_scales[2];
    int group_blocks; // blocks that share a scale; 0: the row does

    DEVICE s64 panel_bytes(int blocks, int group_blocks)
    {
        const s64 bytes = (s64)blocks * 256 + (group_blocks ? (blocks + group_blocks - 1) / group_blocks * 32 : 64);
        return (bytes + 63) & ~63ll;
    }
    DEVICE Int4 open(const u8* panel, int blocks, int group_blocks)
    {
        Int4 m = {panel + lane_index() % 4 * 64 + lane_index() / 4 * 8, panel + (s64)blocks * 256, {}, group_blocks};
        open_scales(m.scales, group_blocks, m.row_scales);
        return m;
    }
    struct Raw { u64 codes; u32 scales; };
    DEVICE Raw fetch(const Int4& m, int block) { return {*(const u64*)(m.codes + (s64)block * 256), fetch_scales(m.scales, m.group_blocks, block)}; }
    DEVICE void unpack(const Int4&, const Raw& raw, u32* a)
    {
        const u32 even = (u32)raw.codes, odd = (u32)(raw.codes >> 32);
        a[0] = even & 0x0f0f0f0fu;
        a[1] = odd & 0x0f0f0f0fu;
        a[2] = even >> 4 & 0x0f0f0f0fu;
        a[3] = odd >> 4 & 0x0f0f0f0fu;
    }
    DEVICE void scale(const Int4& m, const Raw& raw, int, float* even, float* odd) { widen_scales(m.row_scales, m.group_blocks, raw.scales, even, odd); }

    // Of two rows.
    DEVICE u32 fetch_scales(const u8* scales, int group_blocks, int block) { return group_blocks ? *(const u32*)(scales + block / group_blocks * 32 + lane_index() / 4 * 4) : 0; }
    DEVICE void widen_scales(const float* row_scales, int group_blocks, u32 pair, float* even, float* odd)
    {
        *even = group_blocks ? half_to_float((u16)pair) : row_scales[0];
        *odd = group_blocks ? half_to_float((u16)(pair >> 16)) : row_scales[1];
    }
    DEVICE void open_scales(const u8* scales, int group_blocks, float* row_scales)
    {
        UNROLL for (int i = 0; i < 2; i++) row_scales[i] = group_blocks ? 0 : ((const float*)scales)[lane_index() / 4 * 2 + i];
    }
};

struct Int8
{
    static const int Offset = 128;
    const u8* codes;
    const u8* scales;
    float row_scales[2];
    int group_blocks;

    DEVICE s64 panel_bytes(int blocks, int group_blocks)
    {
        const s64 bytes = (s64)blocks * 512 + (group_blocks ? (blocks + group_blocks - 1) / group_blocks * 32 : 64);
        return (bytes + 63) & ~63ll;
    }
    DEVICE Int8 open(const u8* panel, int blocks, int group_blocks)
    {
        Int8 m = {panel + lane_index() % 4 * 128 + lane_index() / 4 * 8, panel + (s64)blocks * 512, {}, group_blocks};
        Int4::open_scales(m.scales, group_blocks, m.row_scales);
        return m;
    }
    struct Raw { u64 low, high; u32 scales; };
    DEVICE Raw fetch(const Int8& m, int block)
    {
        return {*(const u64*)(m.codes + (s64)block * 512), *(const u64*)(m.codes + (s64)block * 512 + 64), Int4::fetch_scales(m.scales, m.group_blocks, block)};
    }
    DEVICE void unpack(const Int8&, const Raw& raw, u32* a)
    {
        a[0] = (u32)raw.low;
        a[1] = (u32)(raw.low >> 32);
        a[2] = (u32)raw.high;
        a[3] = (u32)(raw.high >> 32);
    }
    DEVICE void scale(const Int8& m, const Raw& raw, int, float* even, float* odd) { Int4::widen_scales(m.row_scales, m.group_blocks, raw.scales, even, odd); }
};

// WINT2 (Quantization/Wint2.cs)
struct Int2
{
    static const int Offset = 32;
    const u8* codes;
    const u8* groups;
    float code_scale[2], code_zero_point[2], super_scale[2];

    DEVICE s64 panel_bytes(int blocks, int) { return ((s64)blocks * 128 + blocks / 4 * 16 + 192 + 63) & ~63ll; }
    DEVICE Int2 open(const u8* panel, int blocks, int)
    {
        const int g = lane_index() / 4;
        Int2 m;
        m.codes = panel + lane_index() % 4 * 32 + 2 * g;
        m.groups = panel + (s64)blocks * 128 + 2 * g;
        const float* columns = (const float*)(panel + (s64)blocks * 128 + blocks / 4 * 16);
        UNROLL for (int i = 0; i < 2; i++)
        {
            m.code_scale[i] = columns[2 * g + i];
            m.code_zero_point[i] = columns[16 + 2 * g + i];
            m.super_scale[i] = columns[32 + 2 * g + i];
        }
        return m;
    }
    DEVICE u32 decode(const Int2& m, int row, u32 code)
    {
        // Three roundings, as published.
        const float product = (float)(int)code * m.code_scale[row];
        const float sum = product + m.code_zero_point[row];
        const int word = (int)__builtin_floorf(sum + 0.5f);
        return (u32)(word >> 9 & 63) | (u32)(word >> 6 & 63) << 8 | (u32)(word >> 3 & 63) << 16 | (u32)(word & 63) << 24;
    }
    struct Raw { u32 low, high, groups; };
    DEVICE Raw fetch(const Int2& m, int block)
    {
        return {*(const u16*)(m.codes + (s64)block * 128), *(const u16*)(m.codes + (s64)block * 128 + 16), *(const u16*)(m.groups + block / 4 * 16)};
    }
    DEVICE void unpack(const Int2& m, const Raw& raw, u32* a)
    {
        a[0] = decode(m, 0, raw.low & 255);
        a[1] = decode(m, 1, raw.low >> 8);
        a[2] = decode(m, 0, raw.high & 255);
        a[3] = decode(m, 1, raw.high >> 8);
    }
    DEVICE void scale(const Int2& m, const Raw& raw, int block, float* even, float* odd)
    {
        // A byte for two groups of 64, the first in the high half.
        const u32 shift = block / 2 % 2 ? 0 : 4;
        *even = (float)(int)(raw.groups >> shift & 15) * m.super_scale[0];
        *odd = (float)(int)(raw.groups >> (shift + 8) & 15) * m.super_scale[1];
    }
};

// Adds the spans in order and writes [tokens of the tile, 16 rows].
template <int TILES> DEVICE void write_sums(const float (*sums)[4], int even_row, int odd_row, const Tile& tile, const int* order, int rows, s64 stride, float* out)
{
    const int t = lane_index() % 4;
    float* spans = shared<float>() + warp_index() * TILES * 128;
    UNROLL for (int j = 0; j < TILES; j++)
    {
        spans[(8 * j + 2 * t) * 16 + even_row] = sums[j][0];
        spans[(8 * j + 2 * t + 1) * 16 + even_row] = sums[j][1];
        spans[(8 * j + 2 * t) * 16 + odd_row] = sums[j][2];
        spans[(8 * j + 2 * t + 1) * 16 + odd_row] = sums[j][3];
    }
    sync_threads();
    for (int i = thread_x(); i < TILES * 128; i += SPANS * 32)
    {
        const int position = tile.first + i / 16, row = i % 16;
        if (position >= tile.last || row >= rows) continue;
        float sum = 0;
        UNROLL for (int span = 0; span < SPANS; span++) sum += shared<float>()[span * TILES * 128 + i];
        out[assignment_of(order, position) * stride + row] = sum;
    }
}

// Which section and panel of it a warp has.
template <bool WIDE> DEVICE int section_of(int panels) { return block_x() / (WIDE ? (panels + 7) / 8 : panels); }
template <bool WIDE> DEVICE int panel_of(int panels) { return WIDE ? block_x() % ((panels + 7) / 8) * 8 + warp_index() : block_x() % panels; }

// Writes what a warp has added itself.
template <int TILES> DEVICE void write_totals(const float (*totals)[4], int even_row, int odd_row, const Tile& tile, const int* order, int rows, s64 stride, float* out)
{
    UNROLL for (int j = 0; j < TILES; j++)
    {
        UNROLL for (int i = 0; i < 2; i++)
        {
            const int position = tile.first + 8 * j + 2 * (lane_index() % 4) + i;
            if (position >= tile.last) continue;
            float* row = out + assignment_of(order, position) * stride;
            if (even_row < rows) row[even_row] = totals[j][i];
            if (odd_row < rows) row[odd_row] = totals[j][2 + i];
        }
    }
}

template <int TILES> DEVICE void next_span(float (*totals)[4], float (*sums)[4])
{
    UNROLL for (int j = 0; j < TILES; j++)
    {
        UNROLL for (int i = 0; i < 4; i++)
        {
            totals[j][i] += sums[j][i];
            sums[j][i] = 0;
        }
    }
}

template <class Format, int TILES, bool WIDE> DEVICE void quantised_product(const u8* weight, int sections, int section_rows, int columns, int group_blocks,
    const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    const Tile tile = tile_of(tiles, count, TILES * 8);
    if (tile.first >= tile.last) return;
    const int blocks = (columns + 31) / 32, panels = (section_rows + 15) / 16, section = section_of<WIDE>(panels), own = panel_of<WIDE>(panels), first_row = own * 16;
    if (WIDE && own >= panels) return;
    const s64 panel = ((s64)tile.expert * sections + section) * panels + own;
    const Format matrix = Format::open(weight + panel * Format::panel_bytes(blocks, group_blocks), blocks, group_blocks);

    const int g = lane_index() / 4, t = lane_index() % 4;
    const s8* token_codes[TILES];
    const BlockScale* token_scales[TILES][2];
    float sums[TILES][4], totals[TILES][4];
    UNROLL for (int j = 0; j < TILES; j++)
    {
        // Places behind the last token repeat it; nobody writes them.
        token_codes[j] = codes + (s64)(assignment_of(order, least(tile.first + 8 * j + g, tile.last - 1)) / divisor) * blocks * 32 + 8 * t;
        UNROLL for (int i = 0; i < 2; i++) token_scales[j][i] = scales + (s64)(assignment_of(order, least(tile.first + 8 * j + 2 * t + i, tile.last - 1)) / divisor) * blocks;
        UNROLL for (int i = 0; i < 4; i++) sums[j][i] = totals[j][i] = 0;
    }

    // The weights of several blocks are on their way at once. (Tensor instructions keep the compiler from unrolling a loop of unknown length.)
    const int Ahead = TILES == 1 ? 4 : 2;
    const int span = (blocks + SPANS - 1) / SPANS;
    for (int s = WIDE ? 0 : warp_index(); s < (WIDE ? SPANS : warp_index() + 1); s++)
    {
        const int end = least(blocks, (s + 1) * span);
        for (int block = s * span; block < end; block += Ahead)
        {
            typename Format::Raw raw[Ahead];
            UNROLL for (int i = 0; i < Ahead; i++) raw[i] = Format::fetch(matrix, least(block + i, end - 1));
            UNROLL for (int i = 0; i < Ahead; i++)
            {
                const int at = block + i;
                if (at >= end) break;
                u32 a[4];
                float even, odd;
                Format::unpack(matrix, raw[i], a);
                Format::scale(matrix, raw[i], at, &even, &odd);
                UNROLL for (int j = 0; j < TILES; j++)
                {
                    const u64 inputs = *(const u64*)(token_codes[j] + at * 32);
                    const u32 b[2] = {(u32)inputs, (u32)(inputs >> 32)};
                    const BlockScale first = token_scales[j][0][at], second = token_scales[j][1][at];
                    // Codes are q + offset.
                    int c[4] = {-Format::Offset * first.sum, -Format::Offset * second.sum, -Format::Offset * first.sum, -Format::Offset * second.sum};
                    mma_u8s8(c, a, b);
                    sums[j][0] = fused((float)c[0] * first.scale, even, sums[j][0]);
                    sums[j][1] = fused((float)c[1] * second.scale, even, sums[j][1]);
                    sums[j][2] = fused((float)c[2] * first.scale, odd, sums[j][2]);
                    sums[j][3] = fused((float)c[3] * second.scale, odd, sums[j][3]);
                }
            }
        }
        if (WIDE) next_span<TILES>(totals, sums);
    }
    if (WIDE) write_totals<TILES>(totals, 2 * g, 2 * g + 1, tile, order, section_rows - first_row, (s64)sections * section_rows, out + section * section_rows + first_row);
    else write_sums<TILES>(sums, 2 * g, 2 * g + 1, tile, order, section_rows - first_row, (s64)sections * section_rows, out + section * section_rows + first_row);
}

// Eight bf16.
struct alignas(16) Eight { u32 pairs[4]; };

// Columns of a row; zeros behind its end.
DEVICE Eight load_eight(const u16* row, int column, int columns)
{
    Eight eight = {};
    if (columns % 8 == 0)
    {
        if (column < columns) eight = *(const Eight*)(row + column);
        return eight;
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        const u32 low = column + 2 * i < columns ? row[column + 2 * i] : 0, high = column + 2 * i + 1 < columns ? row[column + 2 * i + 1] : 0;
        eight.pairs[i] = low | high << 16;
    }
    return eight;
}

template <int TILES, bool WIDE> DEVICE void bf16_product(const u16* weight, int sections, int section_rows, int columns, const u16* parts, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    const Tile tile = tile_of(tiles, count, TILES * 8);
    if (tile.first >= tile.last) return;
    const int blocks = (columns + 31) / 32, panels = (section_rows + 15) / 16, section = section_of<WIDE>(panels), own = panel_of<WIDE>(panels), first_row = own * 16;
    if (WIDE && own >= panels) return;
    const int g = lane_index() / 4, t = lane_index() % 4;
    const s64 section_row = ((s64)tile.expert * sections + section) * section_rows;
    const u16* low = weight + (section_row + least(first_row + g, section_rows - 1)) * columns;
    const u16* high = weight + (section_row + least(first_row + g + 8, section_rows - 1)) * columns;

    const u16* tokens[TILES];
    float sums[TILES][4], totals[TILES][4];
    UNROLL for (int j = 0; j < TILES; j++)
    {
        tokens[j] = parts + (s64)(assignment_of(order, least(tile.first + 8 * j + g, tile.last - 1)) / divisor) * 3 * blocks * 32 + 8 * t;
        UNROLL for (int i = 0; i < 4; i++) sums[j][i] = totals[j][i] = 0;
    }

    const int Ahead = TILES == 1 ? 2 : 1;
    const int span = (blocks + SPANS - 1) / SPANS;
    for (int s = WIDE ? 0 : warp_index(); s < (WIDE ? SPANS : warp_index() + 1); s++)
    {
        const int end = least(blocks, (s + 1) * span);
        for (int block = s * span; block < end; block += Ahead)
        {
            Eight lows[Ahead], highs[Ahead];
            UNROLL for (int i = 0; i < Ahead; i++)
            {
                lows[i] = load_eight(low, least(block + i, end - 1) * 32 + 8 * t, columns);
                highs[i] = load_eight(high, least(block + i, end - 1) * 32 + 8 * t, columns);
            }
            UNROLL for (int i = 0; i < Ahead; i++)
            {
                if (block + i >= end) break;
                const u32 first[4] = {lows[i].pairs[0], highs[i].pairs[0], lows[i].pairs[1], highs[i].pairs[1]};
                const u32 second[4] = {lows[i].pairs[2], highs[i].pairs[2], lows[i].pairs[3], highs[i].pairs[3]};
                UNROLL for (int j = 0; j < TILES; j++)
                {
                    UNROLL for (int part = 0; part < 3; part++)
                    {
                        const Eight b = *(const Eight*)(tokens[j] + (part * blocks + block + i) * 32);
                        mma_bf16(sums[j], first, b.pairs);
                        mma_bf16(sums[j], second, b.pairs + 2);
                    }
                }
            }
        }
        if (WIDE) next_span<TILES>(totals, sums);
    }
    if (WIDE) write_totals<TILES>(totals, g, g + 8, tile, order, section_rows - first_row, (s64)sections * section_rows, out + section * section_rows + first_row);
    else write_sums<TILES>(sums, g, g + 8, tile, order, section_rows - first_row, (s64)sections * section_rows, out + section * section_rows + first_row);
}

// grid (sections · (sectionRows / 16 rounded up), tiles); block 256; shared 4096 for tiles of 8 tokens, 16384 for tiles of 32
// group_blocks: blocks of 32 columns that share a scale, 0 where the row does, anything for int2. Tiles null: count tokens.
KERNEL(256) linear_int8_8(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    quantised_product<Int8, 1, false>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int8_32(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    quantised_product<Int8, 4, false>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int4_8(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    quantised_product<Int4, 1, false>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int4_32(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    quantised_product<Int4, 4, false>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int2_8(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    quantised_product<Int2, 1, false>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int2_32(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    quantised_product<Int2, 4, false>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

// The same geometry.
KERNEL(256) linear_bf16_8(const u16* weight, int sections, int section_rows, int columns, const u16* parts, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    bf16_product<1, false>(weight, sections, section_rows, columns, parts, tiles, order, count, divisor, out);
}

KERNEL(256) linear_bf16_32(const u16* weight, int sections, int section_rows, int columns, const u16* parts, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    bf16_product<4, false>(weight, sections, section_rows, columns, parts, tiles, order, count, divisor, out);
}

// Wide: tiles of 32 tokens.
// grid (sections · (sectionRows / 128 rounded up), tiles); block 256; shared 0
KERNEL(256) linear_int8_wide(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    quantised_product<Int8, 4, true>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int4_wide(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    quantised_product<Int4, 4, true>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int2_wide(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    quantised_product<Int2, 4, true>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_bf16_wide(const u16* weight, int sections, int section_rows, int columns, const u16* parts, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    bf16_product<4, true>(weight, sections, section_rows, columns, parts, tiles, order, count, divisor, out);
}

// For models that are compared with others; no tensor cores. A warp has a row, a lane every 32nd column.
// grid (sections · sectionRows / 8 rounded up, tiles of 8 tokens); block 256; shared 0
KERNEL(256) linear_fp32_8(const float* weight, int sections, int section_rows, int columns, const float* x, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    const Tile tile = tile_of(tiles, count, 8);
    const int rows = sections * section_rows, row = block_x() * 8 + warp_index();
    if (tile.first >= tile.last || row >= rows) return;
    const float* weights = weight + ((s64)tile.expert * rows + row) * columns;
    const float* tokens[8];
    float sums[8];
    UNROLL for (int j = 0; j < 8; j++)
    {
        tokens[j] = x + (s64)(assignment_of(order, least(tile.first + j, tile.last - 1)) / divisor) * columns;
        sums[j] = 0;
    }
    for (int column = lane_index(); column < columns; column += 32)
    {
        UNROLL for (int j = 0; j < 8; j++) sums[j] = fused(weights[column], tokens[j][column], sums[j]);
    }
    UNROLL for (int j = 0; j < 8; j++)
    {
        const float sum = warp_sum(sums[j]);
        if (lane_index() == 0 && tile.first + j < tile.last) out[(s64)assignment_of(order, tile.first + j) * rows + row] = sum;
    }
}
