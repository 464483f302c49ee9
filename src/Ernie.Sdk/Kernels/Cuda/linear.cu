//  Products of tokens with a matrix, or with a stack of experts' matrices
//      x        [rows, columns]                                float, prepared for the weight: fp32 as it is; bf16 parts [rows, 3, columns'] of bf16, whose sum x is;
//                                                              others codes [rows, columns'] int8 and scales [rows, columns' / 32] (Kernels/QuantizedActivations.cs)
//      weight   [experts, sections, sectionRows, columns]      fp32, bf16 row-major; int8, int4, int2 in panels (Quantization/PanelLayout.cs); each section begins a panel
//      out      [assignments, sections · sectionRows]          float
//  Math       out = x · Wᵀ; columns' is columns rounded up to 32
//  Reference  Kernels/Reference/ReferenceLinear.cs
//  Tolerance  1e-5: sums in float
//
//  Columns are cut in 8 spans of whole blocks of 32. The blocks of a span are added one after another, those that share a weight's scale before it is applied, and the spans in order: where there are few
//  tokens a warp has a span, and the weights of a panel are on their way in 8 warps at once; where there are many (wide) it has all spans of a panel of its own, and 8 panels share the tokens, which are
//  copied to shared memory while others are computed. That order depends on the number of columns and the weight's format alone, so a token has the same bits alone and among others. Integer products of
//  a block are exact, and three bf16 parts hold all bits of a float.
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
    await_previous();
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
    await_previous();
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
    await_previous();
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
    await_previous();
    const int padded = (columns + 31) / 32 * 32, column = block_y() * 256 + thread_x();
    const s64 row = block_x();
    if (column < padded) split(column < columns ? x[row * columns + column] : 0, parts + row * 3 * padded + column, padded);
}

// grid (rows, columns' / 256 rounded up); block 256; shared 0
KERNEL(256) swiglu_split_rows(const float* gate_up, int columns, u16* parts)
{
    await_previous();
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
    static const int Offset = 8, BlockBytes = 256;
    const u8* codes;
    const u8* scales;
    float even_scale, odd_scale; // of two rows, unless groups of blocks have their own
    int group_blocks;            // blocks that share a scale; 0: the row does

    DEVICE s64 panel_bytes(int blocks, int group_blocks)
    {
        const s64 bytes = (s64)blocks * 256 + (group_blocks ? (blocks + group_blocks - 1) / group_blocks * 32 : 64);
        return (bytes + 63) & ~63ll;
    }
    DEVICE Int4 open(const u8* panel, int blocks, int group_blocks)
    {
        const u8* scales = panel + (s64)blocks * 256;
        return {panel + lane_index() % 4 * 64 + lane_index() / 4 * 8, scales, row_scale(scales, group_blocks, 0), row_scale(scales, group_blocks, 1), group_blocks};
    }
    struct Raw { u64 codes; u32 scales; };
    DEVICE int group_size(const Int4& m) { return m.group_blocks ? m.group_blocks : 1 << 30; }
    DEVICE Raw fetch(const Int4& m, int block, int group) { return {*(const u64*)(m.codes + (s64)block * 256), fetch_scales(m.scales, m.group_blocks, group)}; }
    DEVICE void unpack(const Int4&, const Raw& raw, u32* a)
    {
        const u32 even = (u32)raw.codes, odd = (u32)(raw.codes >> 32);
        a[0] = even & 0x0f0f0f0fu;
        a[1] = odd & 0x0f0f0f0fu;
        a[2] = even >> 4 & 0x0f0f0f0fu;
        a[3] = odd >> 4 & 0x0f0f0f0fu;
    }
    DEVICE void scale(const Int4& m, const Raw& raw, int, float* even, float* odd)
    {
        *even = m.group_blocks ? half_to_float((u16)raw.scales) : m.even_scale;
        *odd = m.group_blocks ? half_to_float((u16)(raw.scales >> 16)) : m.odd_scale;
    }

    // Of two rows.
    DEVICE u32 fetch_scales(const u8* scales, int group_blocks, int group) { return group_blocks ? *(const u32*)(scales + group * 32 + lane_index() / 4 * 4) : 0; }
    DEVICE float row_scale(const u8* scales, int group_blocks, int odd) { return group_blocks ? 0 : ((const float*)scales)[lane_index() / 4 * 2 + odd]; }
};

struct Int8
{
    static const int Offset = 128, BlockBytes = 512;
    const u8* codes;
    const u8* scales;
    float even_scale, odd_scale;
    int group_blocks;

    DEVICE s64 panel_bytes(int blocks, int group_blocks)
    {
        const s64 bytes = (s64)blocks * 512 + (group_blocks ? (blocks + group_blocks - 1) / group_blocks * 32 : 64);
        return (bytes + 63) & ~63ll;
    }
    DEVICE Int8 open(const u8* panel, int blocks, int group_blocks)
    {
        const u8* scales = panel + (s64)blocks * 512;
        return {panel + lane_index() % 4 * 128 + lane_index() / 4 * 8, scales, Int4::row_scale(scales, group_blocks, 0), Int4::row_scale(scales, group_blocks, 1), group_blocks};
    }
    struct Raw { u64 low, high; u32 scales; };
    DEVICE int group_size(const Int8& m) { return m.group_blocks ? m.group_blocks : 1 << 30; }
    DEVICE Raw fetch(const Int8& m, int block, int group)
    {
        return {*(const u64*)(m.codes + (s64)block * 512), *(const u64*)(m.codes + (s64)block * 512 + 64), Int4::fetch_scales(m.scales, m.group_blocks, group)};
    }
    DEVICE void unpack(const Int8&, const Raw& raw, u32* a)
    {
        a[0] = (u32)raw.low;
        a[1] = (u32)(raw.low >> 32);
        a[2] = (u32)raw.high;
        a[3] = (u32)(raw.high >> 32);
    }
    DEVICE void scale(const Int8& m, const Raw& raw, int, float* even, float* odd)
    {
        *even = m.group_blocks ? half_to_float((u16)raw.scales) : m.even_scale;
        *odd = m.group_blocks ? half_to_float((u16)(raw.scales >> 16)) : m.odd_scale;
    }
};

// WINT2 (Quantization/Wint2.cs)
struct Int2
{
    static const int Offset = 32, BlockBytes = 128;
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
    DEVICE int group_size(const Int2&) { return 2; }
    DEVICE Raw fetch(const Int2& m, int block, int)
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

// Which group of blocks that share a scale a block is in.
struct Groups
{
    int size, index, left;

    DEVICE Groups at(int block, int size) { return {size, block / size, size - block % size}; }
    DEVICE void next(Groups& groups)
    {
        if (--groups.left > 0) return;
        groups.index++;
        groups.left = groups.size;
    }
};

// A whole number below 2^22, which is added to the bits of the float 1.5 · 2^23. Cheaper than a conversion.
#define MAGIC 0x4b400000
DEVICE float exact_float(int c) { return bits_float((u32)c) - 12582912.0f; }

// Adds the products of a block of 32 columns, before the weight's scale. a: codes are q + offset.
template <int TILES> DEVICE void add_block(const u32* a, int offset, const u64* inputs, const BlockScale (*scales)[2], float (*partial)[4])
{
    UNROLL for (int j = 0; j < TILES; j++)
    {
        const u32 b[2] = {(u32)inputs[j], (u32)(inputs[j] >> 32)};
        const int first = MAGIC - offset * scales[j][0].sum, second = MAGIC - offset * scales[j][1].sum;
        int c[4] = {first, second, first, second};
        mma_u8s8(c, a, b);
        UNROLL for (int i = 0; i < 4; i++) partial[j][i] = fused(exact_float(c[i]), scales[j][i % 2].scale, partial[j][i]);
    }
}

// A group ends: the weight's scale is applied.
template <class Format, int TILES> DEVICE void end_group(const Format& matrix, const typename Format::Raw& raw, int block, float (*partial)[4], float (*sums)[4])
{
    float even, odd;
    Format::scale(matrix, raw, block, &even, &odd);
    UNROLL for (int j = 0; j < TILES; j++)
    {
        UNROLL for (int i = 0; i < 4; i++)
        {
            sums[j][i] = fused(partial[j][i], i < 2 ? even : odd, sums[j][i]);
            partial[j][i] = 0;
        }
    }
}

// Adds a span of the products with several panels. All that a few blocks need is asked for before any of it is used.
template <class Format, int TILES, int PANELS, int AHEAD> DEVICE void add_span(const Format* matrices, const s8* const* token_codes, const BlockScale* const (*token_scales)[2], int begin, int end, float (*sums)[TILES][4])
{
    float partial[PANELS][TILES][4];
    UNROLL for (int p = 0; p < PANELS; p++)
    {
        UNROLL for (int j = 0; j < TILES; j++)
        {
            UNROLL for (int i = 0; i < 4; i++) partial[p][j][i] = 0;
        }
    }
    Groups fetched = Groups::at(begin, Format::group_size(matrices[0])), added = fetched;
    for (int block = begin; block < end; block += AHEAD)
    {
        typename Format::Raw raw[AHEAD][PANELS];
        u64 inputs[AHEAD][TILES];
        BlockScale scales[AHEAD][TILES][2];
        UNROLL for (int i = 0; i < AHEAD; i++)
        {
            const int at = least(block + i, end - 1);
            UNROLL for (int p = 0; p < PANELS; p++) raw[i][p] = Format::fetch(matrices[p], at, fetched.index);
            if (at < end - 1) Groups::next(fetched);
        }
        UNROLL for (int i = 0; i < AHEAD; i++)
        {
            const int at = least(block + i, end - 1);
            UNROLL for (int j = 0; j < TILES; j++)
            {
                inputs[i][j] = *(const u64*)(token_codes[j] + at * 32);
                UNROLL for (int k = 0; k < 2; k++) scales[i][j][k] = token_scales[j][k][at];
            }
        }
        UNROLL for (int i = 0; i < AHEAD; i++)
        {
            const int at = block + i;
            if (at >= end) continue;
            const bool ends = added.left == 1 || at == end - 1;
            UNROLL for (int p = 0; p < PANELS; p++)
            {
                u32 a[4];
                Format::unpack(matrices[p], raw[i][p], a);
                add_block<TILES>(a, Format::Offset, inputs[i], scales[i], partial[p]);
                if (ends) end_group<Format, TILES>(matrices[p], raw[i][p], at, partial[p], sums[p]);
            }
            Groups::next(added);
        }
    }
}

// Shows a warp's sums of a panel to the block: spans [tokens of the tile, 16 rows].
template <int TILES> DEVICE void share_sums(const float (*sums)[4], int even_row, int odd_row, float* span)
{
    const int t = lane_index() % 4;
    UNROLL for (int j = 0; j < TILES; j++)
    {
        span[(8 * j + 2 * t) * 16 + even_row] = sums[j][0];
        span[(8 * j + 2 * t + 1) * 16 + even_row] = sums[j][1];
        span[(8 * j + 2 * t) * 16 + odd_row] = sums[j][2];
        span[(8 * j + 2 * t + 1) * 16 + odd_row] = sums[j][3];
    }
}

// Adds the spans in order and writes [tokens of the tile, 16 rows].
template <int TILES> DEVICE void write_sums(const float (*sums)[4], int even_row, int odd_row, const Tile& tile, const int* order, int rows, s64 stride, float* out)
{
    share_sums<TILES>(sums, even_row, odd_row, shared<float>() + warp_index() * TILES * 128);
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

// Where a lane reads the tokens of a tile. Places behind the last token repeat it; nobody writes them.
template <int TILES> DEVICE void find_tokens(const Tile& tile, const int* order, int divisor, int blocks, const s8* codes, const BlockScale* scales, const s8** token_codes, const BlockScale* (*token_scales)[2])
{
    const int g = lane_index() / 4, t = lane_index() % 4;
    UNROLL for (int j = 0; j < TILES; j++)
    {
        token_codes[j] = codes + (s64)(assignment_of(order, least(tile.first + 8 * j + g, tile.last - 1)) / divisor) * blocks * 32 + 8 * t;
        UNROLL for (int i = 0; i < 2; i++) token_scales[j][i] = scales + (s64)(assignment_of(order, least(tile.first + 8 * j + 2 * t + i, tile.last - 1)) / divisor) * blocks;
    }
}

template <class Format> DEVICE Format open_panel(const u8* weight, const Tile& tile, int sections, int section, int panels, int panel, int blocks, int group_blocks)
{
    return Format::open(weight + (((s64)tile.expert * sections + section) * panels + panel) * Format::panel_bytes(blocks, group_blocks), blocks, group_blocks);
}

// Brings a warp's span of a panel near while the kernel before still runs. Which experts will be needed is not known then.
template <class Format> DEVICE void prefetch_span(const u8* weight, const Tile* tiles, int panel, int columns, int group_blocks)
{
    if (tiles) return;
    const int blocks = (columns + 31) / 32, span = (blocks + SPANS - 1) / SPANS, begin = warp_index() * span, bytes = (least(blocks, begin + span) - begin) * Format::BlockBytes;
    const u8* from = weight + panel * Format::panel_bytes(blocks, group_blocks) + (s64)begin * Format::BlockBytes;
    for (int i = lane_index() * 128; i < bytes; i += 32 * 128) prefetch(from + i);
}

// A block of threads has a panel, a warp a span of it.
template <class Format, int TILES> DEVICE void quantised_product(const u8* weight, int sections, int section_rows, int columns, int group_blocks,
    const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    const Tile tile = tile_of(tiles, count, TILES * 8);
    if (tile.first >= tile.last) return;
    const int blocks = (columns + 31) / 32, panels = (section_rows + 15) / 16, section = block_x() / panels, own = block_x() % panels, first_row = own * 16, g = lane_index() / 4;
    const Format matrix = open_panel<Format>(weight, tile, sections, section, panels, own, blocks, group_blocks);
    const s8* token_codes[TILES];
    const BlockScale* token_scales[TILES][2];
    find_tokens<TILES>(tile, order, divisor, blocks, codes, scales, token_codes, token_scales);
    float sums[1][TILES][4] = {};
    const int span = (blocks + SPANS - 1) / SPANS, begin = warp_index() * span;
    add_span<Format, TILES, 1, TILES == 1 ? 4 : 2>(&matrix, token_codes, token_scales, begin, least(blocks, begin + span), sums);
    write_sums<TILES>(sums[0], 2 * g, 2 * g + 1, tile, order, section_rows - first_row, (s64)sections * section_rows, out + section * section_rows + first_row);
}

template <class Format> DEVICE void prefetch_gated(const u8* weight, int section_rows, const Tile* tiles, int columns, int group_blocks)
{
    const int panels = (section_rows + 15) / 16;
    UNROLL for (int p = 0; p < 4; p++) prefetch_span<Format>(weight, tiles, p / 2 * panels + least(2 * block_x() + p % 2, panels - 1), columns, group_blocks);
}

// A block of threads has 32 columns of the output: two panels of gates and two of ups, silu(gate) · up. A warp has a span of all four, then a token of the eight.
// Writes floats [assignments, sectionRows], or codes and scales for the product that follows.
template <class Format, bool CODES> DEVICE void gated_product(const u8* weight, int section_rows, int columns, int group_blocks,
    const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out, s8* out_codes, BlockScale* out_scales)
{
    const Tile tile = tile_of(tiles, count, 8);
    if (tile.first >= tile.last) return;
    const int blocks = (columns + 31) / 32, panels = (section_rows + 15) / 16, g = lane_index() / 4;
    Format matrices[4];
    UNROLL for (int p = 0; p < 4; p++) matrices[p] = open_panel<Format>(weight, tile, 2, p / 2, panels, least(2 * block_x() + p % 2, panels - 1), blocks, group_blocks);
    const s8* token_codes[1];
    const BlockScale* token_scales[1][2];
    find_tokens<1>(tile, order, divisor, blocks, codes, scales, token_codes, token_scales);
    float sums[4][1][4] = {};
    const int span = (blocks + SPANS - 1) / SPANS, begin = warp_index() * span;
    add_span<Format, 1, 4, 2>(matrices, token_codes, token_scales, begin, least(blocks, begin + span), sums);
    UNROLL for (int p = 0; p < 4; p++) share_sums<1>(sums[p], 2 * g, 2 * g + 1, shared<float>() + (warp_index() * 4 + p) * 128);
    sync_threads();

    const int position = tile.first + warp_index(), column = block_x() * 32 + lane_index();
    if (position >= tile.last) return;
    const float* here = shared<float>() + lane_index() / 16 * 128 + warp_index() * 16 + lane_index() % 16;
    float gate = 0, up = 0;
    UNROLL for (int s = 0; s < SPANS; s++)
    {
        gate += here[s * 512];
        up += here[s * 512 + 256];
    }
    const s64 row = assignment_of(order, position);
    const float value = column < section_rows ? silu(gate) * up : 0;
    const s64 block = row * ((section_rows + 31) / 32) + block_x();
    if (CODES) quantise(value, out_codes + block * 32 + lane_index(), out_scales + block);
    else if (column < section_rows) out[row * section_rows + column] = value;
}

// Wide: a warp has a panel, and the eight of a block share 32 tokens, four blocks of columns at a time in shared memory: codes [32 tokens, 128], pieces of 16 bytes of a row exchanged by its number; then
// scales [32 tokens, 4].
#define WIDE_STAGES 3
#define WIDE_BLOCKS 4
#define WIDE_BYTES (32 * 128 + 32 * WIDE_BLOCKS * 8)

template <class Format> DEVICE void wide_product(const u8* weight, int sections, int section_rows, int columns, int group_blocks,
    const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    const Tile tile = tile_of(tiles, count, 32);
    if (tile.first >= tile.last) return;
    const int blocks = (columns + 31) / 32, panels = (section_rows + 15) / 16, section = block_x() / ((panels + 7) / 8), own = block_x() % ((panels + 7) / 8) * 8 + warp_index();
    const int g = lane_index() / 4, t = lane_index() % 4, chunks = (blocks + WIDE_BLOCKS - 1) / WIDE_BLOCKS;
    const Format matrix = open_panel<Format>(weight, tile, sections, section, panels, least(own, panels - 1), blocks, group_blocks);

    // What this thread copies: a piece of the codes of one token, and a scale of another.
    const int code_row = thread_x() / 8, code_piece = thread_x() % 8, scale_row = thread_x() / WIDE_BLOCKS, scale_block = thread_x() % WIDE_BLOCKS;
    const s8* row_codes = codes + (s64)(assignment_of(order, least(tile.first + code_row, tile.last - 1)) / divisor) * blocks * 32 + 16 * code_piece;
    const BlockScale* row_scales = scales + (s64)(assignment_of(order, least(tile.first + least(scale_row, 31), tile.last - 1)) / divisor) * blocks + scale_block;
    auto ask = [=](int chunk)
    {
        u8* stage = shared<u8>() + chunk % WIDE_STAGES * WIDE_BYTES;
        if (chunk * WIDE_BLOCKS + code_piece / 2 < blocks) copy_async(stage + code_row * 128 + (code_piece ^ code_row % 8) * 16, (const u8*)row_codes + (s64)chunk * 128);
        if (scale_row < 32 && chunk * WIDE_BLOCKS + scale_block < blocks) copy_async_8(stage + 32 * 128 + thread_x() * 8, (const u8*)(row_scales + chunk * WIDE_BLOCKS));
        copies_asked();
    };
    for (int chunk = 0; chunk < WIDE_STAGES - 1; chunk++) ask(chunk);

    float partial[4][4] = {}, sums[4][4] = {}, totals[4][4] = {};
    const int span = (blocks + SPANS - 1) / SPANS;
    Groups fetched = Groups::at(0, Format::group_size(matrix)), added = fetched;
    int span_left = span;
    typename Format::Raw raw[WIDE_BLOCKS];
    auto fetch = [&](int chunk)
    {
        UNROLL for (int i = 0; i < WIDE_BLOCKS; i++)
        {
            const int at = chunk * WIDE_BLOCKS + i;
            raw[i] = Format::fetch(matrix, least(at, blocks - 1), fetched.index);
            if (at < blocks - 1) Groups::next(fetched);
        }
    };
    fetch(0);
    for (int chunk = 0; chunk < chunks; chunk++)
    {
        copies_wait<WIDE_STAGES - 2>();
        sync_threads();
        ask(chunk + WIDE_STAGES - 1);
        const u8* stage = shared<u8>() + chunk % WIDE_STAGES * WIDE_BYTES;
        const BlockScale* stage_scales = (const BlockScale*)(stage + 32 * 128);
        typename Format::Raw now[WIDE_BLOCKS];
        UNROLL for (int i = 0; i < WIDE_BLOCKS; i++) now[i] = raw[i];
        fetch(least(chunk + 1, chunks - 1));
        UNROLL for (int i = 0; i < WIDE_BLOCKS; i++)
        {
            const int at = chunk * WIDE_BLOCKS + i;
            if (at >= blocks) continue;
            u64 inputs[4];
            BlockScale token_scales[4][2];
            UNROLL for (int j = 0; j < 4; j++)
            {
                inputs[j] = *(const u64*)(stage + (8 * j + g) * 128 + ((2 * i + t / 2) ^ g) * 16 + t % 2 * 8);
                UNROLL for (int k = 0; k < 2; k++) token_scales[j][k] = stage_scales[(8 * j + 2 * t + k) * WIDE_BLOCKS + i];
            }
            u32 a[4];
            Format::unpack(matrix, now[i], a);
            add_block<4>(a, Format::Offset, inputs, token_scales, partial);
            const bool ends = --span_left == 0 || at == blocks - 1;
            if (ends || added.left == 1) end_group<Format, 4>(matrix, now[i], at, partial, sums);
            Groups::next(added);
            if (!ends) continue;
            next_span<4>(totals, sums);
            span_left = span;
        }
    }
    if (own < panels) write_totals<4>(totals, 2 * g, 2 * g + 1, tile, order, section_rows - own * 16, (s64)sections * section_rows, out + section * section_rows + own * 16);
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
    const int blocks = (columns + 31) / 32, panels = (section_rows + 15) / 16, across = WIDE ? (panels + 7) / 8 : panels;
    const int section = block_x() / across, own = WIDE ? block_x() % across * 8 + warp_index() : block_x() % across, first_row = own * 16;
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
    prefetch_span<Int8>(weight, tiles, block_x(), columns, group_blocks);
    await_previous();
    quantised_product<Int8, 1>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int8_32(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    await_previous();
    quantised_product<Int8, 4>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int4_8(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    prefetch_span<Int4>(weight, tiles, block_x(), columns, group_blocks);
    await_previous();
    quantised_product<Int4, 1>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int4_32(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    await_previous();
    quantised_product<Int4, 4>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int2_8(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    prefetch_span<Int2>(weight, tiles, block_x(), columns, group_blocks);
    await_previous();
    quantised_product<Int2, 1>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int2_32(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    await_previous();
    quantised_product<Int2, 4>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

// The same geometry.
KERNEL(256) linear_bf16_8(const u16* weight, int sections, int section_rows, int columns, const u16* parts, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    await_previous();
    bf16_product<1, false>(weight, sections, section_rows, columns, parts, tiles, order, count, divisor, out);
}

KERNEL(256) linear_bf16_32(const u16* weight, int sections, int section_rows, int columns, const u16* parts, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    await_previous();
    bf16_product<4, false>(weight, sections, section_rows, columns, parts, tiles, order, count, divisor, out);
}

// Wide: tiles of 32 tokens.
// grid (sections · (sectionRows / 128 rounded up), tiles); block 256; shared 15360, bf16 0
KERNEL(256) linear_int8_wide(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    await_previous();
    wide_product<Int8>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int4_wide(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    await_previous();
    wide_product<Int4>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_int2_wide(const u8* weight, int sections, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    await_previous();
    wide_product<Int2>(weight, sections, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out);
}

KERNEL(256) linear_bf16_wide(const u16* weight, int sections, int section_rows, int columns, const u16* parts, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    await_previous();
    bf16_product<4, true>(weight, sections, section_rows, columns, parts, tiles, order, count, divisor, out);
}

// Two sections, gates and ups; tiles of 8 tokens. To floats, or quantised.
// grid (sectionRows / 32 rounded up, tiles); block 256; shared 16384
KERNEL(256) gated_int8(const u8* weight, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    prefetch_gated<Int8>(weight, section_rows, tiles, columns, group_blocks);
    await_previous();
    gated_product<Int8, false>(weight, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out, nullptr, nullptr);
}

KERNEL(256) gated_int8_quantised(const u8* weight, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, s8* out_codes, BlockScale* out_scales)
{
    prefetch_gated<Int8>(weight, section_rows, tiles, columns, group_blocks);
    await_previous();
    gated_product<Int8, true>(weight, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, nullptr, out_codes, out_scales);
}

KERNEL(256) gated_int4(const u8* weight, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    prefetch_gated<Int4>(weight, section_rows, tiles, columns, group_blocks);
    await_previous();
    gated_product<Int4, false>(weight, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out, nullptr, nullptr);
}

KERNEL(256) gated_int4_quantised(const u8* weight, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, s8* out_codes, BlockScale* out_scales)
{
    prefetch_gated<Int4>(weight, section_rows, tiles, columns, group_blocks);
    await_previous();
    gated_product<Int4, true>(weight, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, nullptr, out_codes, out_scales);
}

KERNEL(256) gated_int2(const u8* weight, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    prefetch_gated<Int2>(weight, section_rows, tiles, columns, group_blocks);
    await_previous();
    gated_product<Int2, false>(weight, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, out, nullptr, nullptr);
}

KERNEL(256) gated_int2_quantised(const u8* weight, int section_rows, int columns, int group_blocks, const s8* codes, const BlockScale* scales, const Tile* tiles, const int* order, int count, int divisor, s8* out_codes, BlockScale* out_scales)
{
    prefetch_gated<Int2>(weight, section_rows, tiles, columns, group_blocks);
    await_previous();
    gated_product<Int2, true>(weight, section_rows, columns, group_blocks, codes, scales, tiles, order, count, divisor, nullptr, out_codes, out_scales);
}

// For models that are compared with others; no tensor cores. A warp has a row, a lane every 32nd column.
// grid (sections · sectionRows / 8 rounded up, tiles of 8 tokens); block 256; shared 0
KERNEL(256) linear_fp32_8(const float* weight, int sections, int section_rows, int columns, const float* x, const Tile* tiles, const int* order, int count, int divisor, float* out)
{
    await_previous();
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
