//  Attention over the paged cache, over all blocks or over selected ones (PLAS)
//      qkv     [tokens, heads + 2 · kvHeads, headDim]       float   q, k, v, not rotated
//      angles  [positions, headDim / 2, 2]                  float   cos, sin (Kernels/RopeTable.cs)
//      pool    [blocks, KvBlockLayout]                      fp32, bf16 or int8 (Kernels/KvBlockLayout.cs)
//      packs   [packs] {sequence, first token, tokens, block}       the step's tokens of a sequence inside one of its blocks (make_packs); those without tokens are skipped
//      tables  [sequences, stride] block of the pool
//      limits  [sequences, 6] (Kernels/SparseLimits.cs)
//      kept    [packs, heads of the range | kv heads of the range, words]  a bit for each block of the sequence; zeros before the selection; null: all blocks
//      query   [tokens, heads of the range, headDim]        float   rotated
//      out     [tokens, heads of the range, headDim]        float   tokens in no pack are left alone
//  The range is kv heads kv_begin .. kv_end - 1 and their query heads. headDim is a multiple of 16, at most 128.
//  Math       as Kernels/Reference/ReferenceAttention.cs and ReferenceSelection.cs
//  Reference  those files
//  Tolerance  of the CPU's kernels: sums in float. fp32 caches keep all bits of keys, values, queries and weights in three bf16 parts; others have queries and weights in two, 2^-17
//
//  Tensor cores have 16 rows: eight queries, once their upper and once their lower bf16 part, so that the sum of two rows is a product of nearly full precision.
//  A warp takes 16 positions at a time. Running maxima are whole powers of two, so that rescaling is exact and does not depend on where a sum is cut. A block of the cache is summed from zero; blocks are
//  added in order. Decode spreads blocks over warps and prefill does not: dense tokens have the same bits in both.
//  Keys and values of the next tiles are on their way to shared memory (cp.async) while one is computed. There the 16-byte pieces of each 1,024 bytes are exchanged so that the lanes of a warp, which read
//  columns, meet different banks.

#define BLOCK 128
#define TILE 16
#define MAX_HEAD_DIM 128
// Words of 32 blocks that a list of a selection has at most.
#define MAX_WORDS 44

struct Pack { int sequence, first, count, block; };
struct Limits { int encoder_left, encoder_right, encoder_limit, decoder_left, decoder_right, decoder_limit; };
struct alignas(16) Words { u32 values[4]; };

// Where things lie in a block of the cache; bytes.
template <class Element> struct Block
{
    u8* data;
    int kv_heads, head_dim;

    DEVICE s64 bytes(int kv_heads, int head_dim)
    {
        const s64 all = 2ll * kv_heads * BLOCK * head_dim * Element::Bytes + (Element::Scaled ? 2ll * kv_heads * BLOCK * 4 : 0) + 2ll * kv_heads * head_dim * 4;
        return (all + 4095) / 4096 * 4096;
    }
    DEVICE Block of(u8* pool, int block, int kv_heads, int head_dim) { return {pool + block * bytes(kv_heads, head_dim), kv_heads, head_dim}; }
    DEVICE u8* head(const Block& b, int head) { return b.data + (s64)head * BLOCK * b.head_dim * Element::Bytes; }
    // [headDim, 16 positions]
    DEVICE u8* key_tile(const Block& b, int kv_head, int tile) { return head(b, kv_head) + tile * 16 * b.head_dim * Element::Bytes; }
    DEVICE u8* value(const Block& b, int kv_head, int position) { return head(b, b.kv_heads + kv_head) + position * b.head_dim * Element::Bytes; }
    DEVICE float* scales(const Block& b) { return (float*)head(b, 2 * b.kv_heads); }
    DEVICE float* key_scales(const Block& b, int kv_head) { return scales(b) + kv_head * BLOCK; }
    DEVICE float* value_scales(const Block& b, int kv_head) { return scales(b) + (b.kv_heads + kv_head) * BLOCK; }
    DEVICE float* key_sum(const Block& b, int kv_head) { return scales(b) + (Element::Scaled ? 2 * b.kv_heads * BLOCK : 0) + kv_head * b.head_dim; }
    DEVICE float* gated_sum(const Block& b, int kv_head) { return key_sum(b, b.kv_heads + kv_head); }
};

// What a step consists of, so that nothing but its numbers of tokens and sequences must be known before it is launched: a launch for packs has as many as there could be.
// prefill [prefill_count], at least tokens / 128 + 2 · sequences; decode [sequences]: one for each sequence that decodes. Those not needed are empty. Dead sequences have none.
// flags [sequences]: 1 decode, 2 dead (Kernels/KernelArguments.cs)
// grid 1; block 256; shared 8 · sequences
KERNEL(256) make_packs(const int* positions, const int* starts, const int* flags, int sequences, Pack* prefill, int prefill_count, Pack* decode)
{
    await_previous();
    int* first = shared<int>();        // [sequences] packs of the sequence, then the first of them
    int* state = first + sequences;    // flags, read once: a sequence may die meanwhile
    for (int s = thread_x(); s < sequences; s += 256)
    {
        const int begin = starts[s], count = starts[s + 1] - begin;
        state[s] = count > 0 ? flags[s] : 2;
        first[s] = state[s] == 0 ? (positions[begin] % BLOCK + count + BLOCK - 1) / BLOCK : 0;
        Pack pack = {s, begin, 0, 0};
        if (state[s] == 1) pack = {s, begin, 1, positions[begin] / BLOCK};
        decode[s] = pack;
    }
    sync_threads();
    if (thread_x() == 0)
    {
        int sum = 0;
        for (int s = 0; s < sequences; s++)
        {
            const int count = first[s];
            first[s] = sum;
            sum += count;
        }
        for (int i = sum; i < prefill_count; i++) prefill[i] = {0, 0, 0, 0};
    }
    sync_threads();
    for (int s = thread_x(); s < sequences; s += 256)
    {
        if (state[s] != 0) continue;
        for (int token = starts[s], i = first[s]; token < starts[s + 1]; i++)
        {
            const int count = least(starts[s + 1] - token, BLOCK - positions[token] % BLOCK);
            prefill[i] = {s, token, count, positions[token] / BLOCK};
            token += count;
        }
    }
}

// grid words / 256 rounded up; block 256; shared 0
KERNEL(256) clear_words(u32* words, int count)
{
    await_previous();
    const s64 i = (s64)block_x() * 256 + thread_x();
    if (i < count) words[i] = 0;
}

DEVICE u32 upper_halves(float low, float high) { return byte_permute(float_bits(low), float_bits(high), 0x7632); }
DEVICE float without_upper_half(float x) { return x - bits_float(float_bits(x) & 0xffff0000u); }
// To nearest in the upper half.
DEVICE float rounded_half(float x) { return bits_float(float_bits(x) + 0x7fff + (float_bits(x) >> 16 & 1)); }

// Where a byte of a tile lies in shared memory. The map is linear over exclusive or: swizzle(a ^ b) = swizzle(a) ^ swizzle(b).
DEVICE int swizzle(int offset) { return offset ^ ((offset >> 7 ^ offset >> 9) << 1 & 7) << 4; }

// An element of the cache: how a lane (g = lane / 4, t = lane % 4) reads 4 channels of positions 2g and 2g + 1 of a tile of keys, and 4 channels of positions 4t .. 4t+3 of the values, as operands b of mma.
// A staged tile has [128 channels, 16 positions] of keys, then [16 positions, 128 channels] of values.
struct Bf16
{
    static const int Bytes = 2, Parts = 1, QueryParts = 2, Steps = 8, Groups = 4, Stages = 4;
    static const bool Scaled = false;
    DEVICE void store(u8* target, float value, float) { *(u16*)target = (u16)to_bf16(value); }
    // 16 positions of a channel
    DEVICE void widen(const u8* source, float* values)
    {
        UNROLL for (int half = 0; half < 2; half++)
        {
            const Words words = *(const Words*)(source + 16 * half);
            UNROLL for (int i = 0; i < 8; i++) values[8 * half + i] = from_bf16(words.values[i / 2] >> 16 * (i % 2) & 0xffff);
        }
    }

    DEVICE int key_lane() { return swizzle(lane_index() % 4 * 128 | lane_index() / 4 * 4); }
    DEVICE int value_lane() { return swizzle(lane_index() % 4 * 1024 | lane_index() / 4 * 8); }
    // Channels 16·step + 4t ..; b [parts][2 tiles of positions][2]
    DEVICE void keys(const u8* stage, int lane, int step, u32 b[1][2][2])
    {
        u32 pairs[4];
        UNROLL for (int i = 0; i < 4; i++) pairs[i] = *(const u32*)(stage + (lane ^ swizzle(step * 512 | i * 32)));
        UNROLL for (int i = 0; i < 2; i++)
        {
            b[0][0][i] = byte_permute(pairs[2 * i], pairs[2 * i + 1], 0x5410);
            b[0][1][i] = byte_permute(pairs[2 * i], pairs[2 * i + 1], 0x7632);
        }
    }
    // Channels 32·group + 4g ..; b [parts][4 channels][2]; positions behind the last one count as zero, whatever the cache holds there
    DEVICE void values(const u8* stage, int lane, int group, int positions, u32 b[1][4][2])
    {
        u64 rows[4];
        UNROLL for (int i = 0; i < 4; i++) rows[i] = i < positions ? *(const u64*)(stage + (lane ^ swizzle(i * 256 | group * 64))) : 0;
        UNROLL for (int i = 0; i < 2; i++)
        {
            const u32 low = (u32)rows[2 * i], next_low = (u32)rows[2 * i + 1], high = (u32)(rows[2 * i] >> 32), next_high = (u32)(rows[2 * i + 1] >> 32);
            b[0][0][i] = byte_permute(low, next_low, 0x5410);
            b[0][1][i] = byte_permute(low, next_low, 0x7632);
            b[0][2][i] = byte_permute(high, next_high, 0x5410);
            b[0][3][i] = byte_permute(high, next_high, 0x7632);
        }
    }
};

struct Int8
{
    static const int Bytes = 1, Parts = 1, QueryParts = 2, Steps = 8, Groups = 4, Stages = 4;
    static const bool Scaled = true;
    DEVICE void store(u8* target, float value, float scale) { *(s8*)target = (s8)(scale > 0 ? (int)round_even(value / scale) : 0); }
    DEVICE void widen(const u8* source, float* values)
    {
        const Words words = *(const Words*)source;
        UNROLL for (int i = 0; i < 16; i++) values[i] = widen(words.values[i / 4], i % 4);
    }

    // Byte i of four, as float: 2^23 has its last bit at 1.
    DEVICE float widen(u32 codes, int i) { return bits_float(byte_permute(codes ^ 0x80808080u, 0x4b000000u, 0x7440 + i)) - 8388736; }

    DEVICE int key_lane() { return swizzle(lane_index() % 4 * 64 | lane_index() / 4 * 2); }
    DEVICE int value_lane() { return swizzle(lane_index() % 4 * 512 | lane_index() / 4 * 4); }
    DEVICE void keys(const u8* stage, int lane, int step, u32 b[1][2][2])
    {
        u32 pairs[4];
        UNROLL for (int i = 0; i < 4; i++) pairs[i] = *(const u16*)(stage + (lane ^ swizzle(step * 256 | i * 16)));
        UNROLL for (int i = 0; i < 2; i++)
        {
            b[0][0][i] = upper_halves(widen(pairs[2 * i], 0), widen(pairs[2 * i + 1], 0));
            b[0][1][i] = upper_halves(widen(pairs[2 * i], 1), widen(pairs[2 * i + 1], 1));
        }
    }
    DEVICE void values(const u8* stage, int lane, int group, int positions, u32 b[1][4][2])
    {
        u32 rows[4];
        UNROLL for (int i = 0; i < 4; i++) rows[i] = i < positions ? *(const u32*)(stage + (lane ^ swizzle(i * 128 | group * 32))) : 0;
        UNROLL for (int j = 0; j < 4; j++)
        {
            UNROLL for (int i = 0; i < 2; i++) b[0][j][i] = upper_halves(widen(rows[2 * i], j), widen(rows[2 * i + 1], j));
        }
    }
};

struct Fp32
{
    // Not unrolled: for comparisons, where the size of the code matters more than its speed.
    static const int Bytes = 4, Parts = 3, QueryParts = 3, Steps = 1, Groups = 1, Stages = 2;
    static const bool Scaled = false;
    DEVICE void store(u8* target, float value, float) { *(float*)target = value; }
    DEVICE void widen(const u8* source, float* values)
    {
        UNROLL for (int i = 0; i < 4; i++) *(Four*)(values + 4 * i) = ((const Four*)source)[i];
    }

    DEVICE void split(float first, float second, u32* b, int stride)
    {
        UNROLL for (int part = 0; part < 3; part++)
        {
            b[part * stride] = upper_halves(first, second);
            first = without_upper_half(first);
            second = without_upper_half(second);
        }
    }
    DEVICE int key_lane() { return swizzle(lane_index() % 4 * 256 | lane_index() / 4 * 8); }
    DEVICE int value_lane() { return swizzle(lane_index() % 4 * 2048 | lane_index() / 4 * 16); }
    DEVICE void keys(const u8* stage, int lane, int step, u32 b[3][2][2])
    {
        UNROLL for (int j = 0; j < 2; j++)
        {
            float values[4];
            UNROLL for (int i = 0; i < 4; i++) values[i] = *(const float*)(stage + (lane ^ swizzle(step * 1024 | i * 64 | j * 4)));
            UNROLL for (int i = 0; i < 2; i++) split(values[2 * i], values[2 * i + 1], &b[0][j][i], 4);
        }
    }
    DEVICE void values(const u8* stage, int lane, int group, int positions, u32 b[3][4][2])
    {
        Four rows[4] = {};
        UNROLL for (int i = 0; i < 4; i++)
        {
            if (i < positions) rows[i] = *(const Four*)(stage + (lane ^ swizzle(i * 512 | group * 128)));
        }
        UNROLL for (int j = 0; j < 4; j++)
        {
            UNROLL for (int i = 0; i < 2; i++) split(rows[2 * i].values[j], rows[2 * i + 1].values[j], &b[0][j][i], 8);
        }
    }
};

// ---- rotation, cache, summaries ----

// A warp has a row (q, k and v of the range) of a pack's token i: y[2i] = x[2i]·cos - x[2i+1]·sin, y[2i+1] = x[2i]·sin + x[2i+1]·cos.
template <class Element> DEVICE void rotate_token(const Pack& pack, int i, int range_row, const float* qkv, const int* positions, const float* angles, const int* tables, int stride, u8* pool,
    int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* query)
{
    const int group = heads / kv_heads, range_heads = (kv_end - kv_begin) * group, range = kv_end - kv_begin, lane = lane_index();
    const int kind = range_row < range_heads ? 0 : range_row < range_heads + range ? 1 : 2; // q, k, v
    const int index = kind == 0 ? range_row : (range_row - range_heads) % range;            // in the range
    const int row = kind == 0 ? kv_begin * group + index : heads + (kind - 1) * kv_heads + kv_begin + index;
    const Block<Element> block = Block<Element>::of(pool, tables[(s64)pack.sequence * stride + pack.block], kv_heads, head_dim);
    const int token = pack.first + i, position = positions[token], slot = position % BLOCK;
    const float* x = qkv + ((s64)token * (heads + 2 * kv_heads) + row) * head_dim;
    float y[4]; // pairs lane and lane + 32
    float largest = 0;
    bool broken = false;
    UNROLL for (int p = 0; p < 2; p++)
    {
        const int pair = lane + 32 * p;
        const bool here = 2 * pair < head_dim;
        const float even = here ? x[2 * pair] : 0, odd = here ? x[2 * pair + 1] : 0;
        y[2 * p] = even;
        y[2 * p + 1] = odd;
        if (here && kind < 2)
        {
            const float cos = angles[(s64)position * head_dim + 2 * pair], sin = angles[(s64)position * head_dim + 2 * pair + 1];
            y[2 * p] = fused(even, cos, -(odd * sin));
            y[2 * p + 1] = fused(even, sin, odd * cos);
        }
        largest = larger(larger(largest, magnitude(y[2 * p])), magnitude(y[2 * p + 1]));
        broken |= y[2 * p] != y[2 * p] || y[2 * p + 1] != y[2 * p + 1];
    }
    float scale = 1;
    if (Element::Scaled && kind > 0)
    {
        scale = ballot(broken) ? not_a_number() : warp_largest(largest) / 127;
        if (lane == 0) (kind == 1 ? Block<Element>::key_scales(block, kv_begin + index) : Block<Element>::value_scales(block, kv_begin + index))[slot] = scale;
    }
    UNROLL for (int c = 0; c < 4; c++)
    {
        const int channel = 2 * (lane + 32 * (c / 2)) + c % 2;
        if (channel >= head_dim) continue;
        if (kind == 0) query[((s64)token * range_heads + index) * head_dim + channel] = y[c];
        else if (kind == 1) Element::store(Block<Element>::key_tile(block, kv_begin + index, slot / 16) + (channel * 16 + slot % 16) * Element::Bytes, y[c], scale);
        else Element::store(Block<Element>::value(block, kv_begin + index, slot) + channel * Element::Bytes, y[c], scale);
    }
}

template <class Element> DEVICE void rotate_append(const float* qkv, const int* positions, const float* angles, const Pack* packs, const int* tables, int stride, u8* pool,
    int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* query)
{
    const Pack pack = packs[block_x()];
    for (int i = warp_index(); i < pack.count; i += 8) rotate_token<Element>(pack, i, block_y(), qkv, positions, angles, tables, stride, pool, heads, kv_heads, kv_begin, kv_end, head_dim, query);
}

// Sums of the cached keys of the packs' blocks, and those under the gate [kvHeads, 128, headDim], unless that is null. A thread has a channel of a tile; tiles are added in order.
// shared [2, 8 tiles, 128 channels]
template <class Element> DEVICE void summarise(const Pack& pack, int kv_head, const int* positions, const int* tables, int stride, u8* pool, const float* gate, int kv_heads, int head_dim)
{
    const int channel = thread_x() % MAX_HEAD_DIM, tile = thread_x() / MAX_HEAD_DIM, present = positions[pack.first] % BLOCK + pack.count;
    const Block<Element> block = Block<Element>::of(pool, tables[(s64)pack.sequence * stride + pack.block], kv_heads, head_dim);
    float* sums = shared<float>();
    float* gated_sums = sums + BLOCK / TILE * MAX_HEAD_DIM;
    if (channel < head_dim && tile * TILE < present)
    {
        float keys[TILE], scales[TILE], sum = 0, gated = 0;
        Element::widen(Block<Element>::key_tile(block, kv_head, tile) + channel * TILE * Element::Bytes, keys);
        if (Element::Scaled)
        {
            UNROLL for (int i = 0; i < 4; i++) *(Four*)(scales + 4 * i) = ((const Four*)(Block<Element>::key_scales(block, kv_head) + tile * TILE))[i];
        }
        UNROLL for (int i = 0; i < TILE; i++)
        {
            const int position = tile * TILE + i;
            if (position >= present) break;
            if (Element::Scaled) keys[i] *= scales[i];
            sum += keys[i];
            if (gate) gated = fused(keys[i], gate[((s64)kv_head * BLOCK + position) * head_dim + channel], gated);
        }
        sums[thread_x()] = sum;
        gated_sums[thread_x()] = gated;
    }
    sync_threads();
    if (tile > 0 || channel >= head_dim) return;
    float sum = 0, gated = 0;
    for (int i = 0; i * TILE < present; i++)
    {
        sum += sums[i * MAX_HEAD_DIM + channel];
        gated += gated_sums[i * MAX_HEAD_DIM + channel];
    }
    Block<Element>::key_sum(block, kv_head)[channel] = sum;
    if (gate) Block<Element>::gated_sum(block, kv_head)[channel] = gated;
}

template <class Element> DEVICE void summarise_packs(const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const float* gate, int kv_heads, int kv_begin, int head_dim)
{
    const Pack pack = packs[block_x()];
    if (pack.count > 0) summarise<Element>(pack, kv_begin + block_y(), positions, tables, stride, pool, gate, kv_heads, head_dim);
}

// Both for packs of one token: a warp has a row, and the block the rows of a kv head.
template <class Element> DEVICE void append_token(const float* qkv, const int* positions, const float* angles, const Pack* packs, const int* tables, int stride, u8* pool, const float* gate,
    int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* query)
{
    const Pack pack = packs[block_x()];
    if (pack.count == 0) return;
    const int group = heads / kv_heads, range_heads = (kv_end - kv_begin) * group, range = kv_end - kv_begin, index = block_y();
    for (int row = warp_index(); row < group + 2; row += 32)
        rotate_token<Element>(pack, 0, row < group ? index * group + row : range_heads + (row - group) * range + index, qkv, positions, angles, tables, stride, pool, heads, kv_heads, kv_begin, kv_end, head_dim, query);
    sync_threads();
    summarise<Element>(pack, kv_begin + index, positions, tables, stride, pool, gate, kv_heads, head_dim);
}

// grid (packs, heads of the range + 2 · kv heads of the range); block 256; shared 0
KERNEL(256) rotate_append_fp32(const float* qkv, const int* positions, const float* angles, const Pack* packs, const int* tables, int stride, u8* pool, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* query)
{
    await_previous();
    rotate_append<Fp32>(qkv, positions, angles, packs, tables, stride, pool, heads, kv_heads, kv_begin, kv_end, head_dim, query);
}

KERNEL(256) rotate_append_bf16(const float* qkv, const int* positions, const float* angles, const Pack* packs, const int* tables, int stride, u8* pool, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* query)
{
    await_previous();
    rotate_append<Bf16>(qkv, positions, angles, packs, tables, stride, pool, heads, kv_heads, kv_begin, kv_end, head_dim, query);
}

KERNEL(256) rotate_append_int8(const float* qkv, const int* positions, const float* angles, const Pack* packs, const int* tables, int stride, u8* pool, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* query)
{
    await_previous();
    rotate_append<Int8>(qkv, positions, angles, packs, tables, stride, pool, heads, kv_heads, kv_begin, kv_end, head_dim, query);
}

// grid (packs, kv heads of the range); block 1024; shared 8192
KERNEL(1024) summarise_fp32(const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const float* gate, int kv_heads, int kv_begin, int head_dim)
{
    await_previous();
    summarise_packs<Fp32>(positions, packs, tables, stride, pool, gate, kv_heads, kv_begin, head_dim);
}

KERNEL(1024) summarise_bf16(const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const float* gate, int kv_heads, int kv_begin, int head_dim)
{
    await_previous();
    summarise_packs<Bf16>(positions, packs, tables, stride, pool, gate, kv_heads, kv_begin, head_dim);
}

KERNEL(1024) summarise_int8(const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const float* gate, int kv_heads, int kv_begin, int head_dim)
{
    await_previous();
    summarise_packs<Int8>(positions, packs, tables, stride, pool, gate, kv_heads, kv_begin, head_dim);
}

// For packs of decode steps.
// grid (packs, kv heads of the range); block 1024; shared 8192
KERNEL(1024) append_token_fp32(const float* qkv, const int* positions, const float* angles, const Pack* packs, const int* tables, int stride, u8* pool, const float* gate, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* query)
{
    await_previous();
    append_token<Fp32>(qkv, positions, angles, packs, tables, stride, pool, gate, heads, kv_heads, kv_begin, kv_end, head_dim, query);
}

KERNEL(1024) append_token_bf16(const float* qkv, const int* positions, const float* angles, const Pack* packs, const int* tables, int stride, u8* pool, const float* gate, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* query)
{
    await_previous();
    append_token<Bf16>(qkv, positions, angles, packs, tables, stride, pool, gate, heads, kv_heads, kv_begin, kv_end, head_dim, query);
}

KERNEL(1024) append_token_int8(const float* qkv, const int* positions, const float* angles, const Pack* packs, const int* tables, int stride, u8* pool, const float* gate, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* query)
{
    await_previous();
    append_token<Int8>(qkv, positions, angles, packs, tables, stride, pool, gate, heads, kv_heads, kv_begin, kv_end, head_dim, query);
}

// ---- selection ----

// Block lists are chosen by six halvings between the least and the largest score; a lane has every 32nd score. Returns the threshold.
DEVICE float threshold_of(const float* own, int left, int right)
{
    float low = infinity(), high = -infinity();
    UNROLL for (int i = 0; i < MAX_WORDS; i++)
    {
        low = -larger(-low, -own[i]);
        high = larger(high, own[i]);
    }
    low = -warp_largest(-low);
    high = warp_largest(high);
    float threshold = low;
    for (int round = 0; round < 6 && low < high; round++)
    {
        threshold = (low + high) / 2;
        u32 count = 0;
        UNROLL for (int i = 0; i < MAX_WORDS; i++) count += own[i] >= threshold;
        UNROLL for (int lanes = 16; lanes > 0; lanes >>= 1) count += shuffle_xor(count, lanes);
        if ((int)count < left) high = threshold;
        else if ((int)count > right) low = threshold;
        else break;
    }
    return threshold;
}

// Bits of the blocks of a word that a sequence has.
DEVICE u32 present_bits(int word, int blocks) { return word * 32 >= blocks ? 0 : blocks >= word * 32 + 32 ? ~0u : (1u << blocks % 32) - 1; }

// Eight tokens of a pack under one head, a warp each. block_bytes and sum_offset are KvBlockLayout's BlockBytes and KeySum(0). gated: by gated sums instead of means.
// grid (packs, heads of the range, 16); block 256; shared 32 · (headDim + blocks of the longest sequence); kept is clear
KERNEL(256) select_prefill(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, const u8* pool, int block_bytes, int sum_offset, const Limits* limits, int gated,
    int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, int words, u32* kept)
{
    await_previous();
    const Pack pack = packs[block_x()];
    const int group = heads / kv_heads, range_heads = (kv_end - kv_begin) * group, head = block_y(), first_row = block_z() * 8, row = warp_index(), lane = lane_index();
    const int rows = least(8, pack.count - first_row), blocks = pack.block + 1;
    if (pack.count == 0 || rows <= 0) return;
    const Limits limit = limits[pack.sequence];
    const int present = positions[pack.first] % BLOCK + pack.count;
    u32* bits = kept + ((s64)block_x() * range_heads + head) * words;
    if (limit.encoder_left == 0 || BLOCK * blocks < limit.encoder_limit)
    {
        if (first_row != 0) return;
        for (int word = thread_x(); word * 32 < blocks; word += 256) bits[word] = present_bits(word, blocks);
        return;
    }

    float* queries = shared<float>();           // [8, headDim]
    float* scores = queries + 8 * head_dim;     // [8, blocks]
    for (int i = thread_x(); i < rows * head_dim; i += 256) queries[i] = query[((pack.first + first_row + i / head_dim) * (s64)range_heads + head) * head_dim + i % head_dim];
    sync_threads();
    const int kv_head = kv_begin + head / group;
    for (int j = thread_x(); j < blocks; j += 256)
    {
        const float* sums = (const float*)(pool + (s64)tables[(s64)pack.sequence * stride + j] * block_bytes + sum_offset) + ((gated ? kv_heads : 0) + kv_head) * head_dim;
        float dots[8] = {};
        for (int c = 0; c < head_dim; c += 16)
        {
            Four sum[4];
            UNROLL for (int k = 0; k < 4; k++) sum[k] = *(const Four*)(sums + c + 4 * k);
            UNROLL for (int k = 0; k < 4; k++)
            {
                UNROLL for (int r = 0; r < 8; r++)
                {
                    if (r >= rows) break;
                    const Four q = *(const Four*)(queries + r * head_dim + c + 4 * k);
                    UNROLL for (int i = 0; i < 4; i++) dots[r] = fused(q.values[i], sum[k].values[i], dots[r]);
                }
            }
        }
        const float count = gated ? 1 : (float)(j == pack.block ? present : BLOCK);
        UNROLL for (int r = 0; r < 8; r++)
        {
            if (r < rows) scores[r * blocks + j] = dots[r] / count;
        }
    }
    sync_threads();

    if (row == 0 && first_row == 0 && lane == 0)
    {
        atomic_or(bits, 1);
        atomic_or(bits + pack.block / 32, 1u << pack.block % 32);
    }
    if (row >= rows) return;
    scores += row * blocks;
    float own[MAX_WORDS];
    UNROLL for (int i = 0; i < MAX_WORDS; i++) own[i] = 32 * i + lane < blocks ? scores[32 * i + lane] : not_a_number();
    const float threshold = threshold_of(own, limit.encoder_left, limit.encoder_right);
    UNROLL for (int i = 0; i < MAX_WORDS; i++)
    {
        const u32 chosen = ballot(own[i] >= threshold);
        if (lane == 0 && chosen) atomic_or(bits + i, chosen);
    }
}

DEVICE bool decode_is_dense(const Limits& limit, int position) { return limit.decoder_left == 0 || position < limit.decoder_limit; }

// Scores of the blocks for the heads that share a kv head: 8 lanes have a block, and a lane 16 of its channels. scores [packs, heads of the range, stride]
// grid (packs, kv heads of the range, stride / 32 rounded up); block 256; shared 0
KERNEL(256) score_decode(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, const u8* pool, int block_bytes, int sum_offset, const Limits* limits,
    int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* scores)
{
    await_previous();
    const Pack pack = packs[block_x()];
    const int j = block_z() * 32 + thread_x() / 8, part = thread_x() % 8, group = heads / kv_heads, range_heads = (kv_end - kv_begin) * group;
    if (pack.count == 0 || (int)block_z() * 32 > pack.block) return;
    const int position = positions[pack.first];
    if (decode_is_dense(limits[pack.sequence], position)) return;
    const float* sums = (const float*)(pool + (s64)tables[(s64)pack.sequence * stride + least(j, pack.block)] * block_bytes + sum_offset) + (kv_begin + block_y()) * head_dim;
    Four sum[4];
    UNROLL for (int k = 0; k < 4; k++)
    {
        sum[k] = {};
        if (32 * k + 4 * part < head_dim) sum[k] = *(const Four*)(sums + 32 * k + 4 * part);
    }
    const float count = (float)(j == pack.block ? position % BLOCK + 1 : BLOCK);
    for (int r = 0; r < group; r++)
    {
        const s64 head = (s64)block_y() * group + r;
        const float* q = query + ((s64)pack.first * range_heads + head) * head_dim;
        float dot = 0;
        UNROLL for (int k = 0; k < 4; k++)
        {
            if (32 * k + 4 * part >= head_dim) break;
            const Four own = *(const Four*)(q + 32 * k + 4 * part);
            UNROLL for (int i = 0; i < 4; i++) dot = fused(own.values[i], sum[k].values[i], dot);
        }
        UNROLL for (int lanes = 4; lanes > 0; lanes >>= 1) dot += shuffle_xor(dot, lanes);
        if (part == 0 && j <= pack.block) scores[((s64)block_x() * range_heads + head) * stride + j] = dot / count;
    }
}

// The blocks that a kv head reads: the union of what its query heads choose, a warp each, and the first, the last and the one before.
// grid (packs, kv heads of the range); block 256; shared 1408
KERNEL(256) select_decode(const float* scores, const int* positions, const Pack* packs, int stride, const Limits* limits, int heads, int kv_heads, int kv_begin, int kv_end, int words, u32* kept)
{
    await_previous();
    const Pack pack = packs[block_x()];
    if (pack.count == 0) return;
    const int group = heads / kv_heads, range = kv_end - kv_begin, blocks = pack.block + 1, lane = lane_index();
    const Limits limit = limits[pack.sequence];
    u32* bits = kept + ((s64)block_x() * range + block_y()) * words;
    if (decode_is_dense(limit, positions[pack.first]))
    {
        for (int word = thread_x(); word < words; word += 256) bits[word] = present_bits(word, blocks);
        return;
    }
    u32* chosen = shared<u32>() + warp_index() * MAX_WORDS; // [8 warps, words]
    for (int i = lane; i < MAX_WORDS; i += 32) chosen[i] = 0;
    sync_warp();
    for (int r = warp_index(); r < group; r += 8)
    {
        const float* row = scores + ((s64)block_x() * range * group + block_y() * group + r) * stride;
        float own[MAX_WORDS];
        UNROLL for (int i = 0; i < MAX_WORDS; i++) own[i] = 32 * i + lane < blocks ? row[32 * i + lane] : not_a_number();
        const float threshold = threshold_of(own, limit.decoder_left, limit.decoder_right);
        UNROLL for (int i = 0; i < MAX_WORDS; i++)
        {
            const u32 here = ballot(own[i] >= threshold);
            if (lane == 0) chosen[i] |= here;
        }
    }
    sync_threads();
    for (int word = thread_x(); word < words; word += 256)
    {
        u32 all = 0;
        for (int w = 0; w < 8; w++) all |= shared<u32>()[w * MAX_WORDS + word];
        if (word == 0) all |= 1;
        if (word == pack.block / 32) all |= 1u << pack.block % 32;
        if (pack.block > 0 && word == (pack.block - 1) / 32) all |= 1u << (pack.block - 1) % 32;
        bits[word] = all;
    }
}

// ---- attention ----

DEVICE bool is_kept(const u32* kept, int block) { return !kept || (kept[block / 32] >> block % 32 & 1); }

// 2^x of a whole x ≤ 0, or of -∞.
DEVICE float exact_power(float x) { return x >= -126 ? bits_float((u32)((int)x + 127) << 23) : x != x ? x : 0; }

// What a lane knows of row g: its share of the weights' sum, and channels 32·i + 8·t .. + 7 of the output, all times 2^-largest.
struct RowState
{
    float largest, sum, out[32];

    DEVICE void clear(RowState& s)
    {
        s.largest = -infinity();
        s.sum = 0;
        UNROLL for (int i = 0; i < 32; i++) s.out[i] = 0;
    }
    // Adds a finished part, whose sum is whole.
    DEVICE void add(RowState& s, const RowState& part)
    {
        const float largest = larger(s.largest, part.largest), before = exact_power(s.largest - largest), now = exact_power(part.largest - largest);
        s.largest = largest;
        s.sum = s.sum * before + part.sum * now;
        UNROLL for (int i = 0; i < 32; i++) s.out[i] = s.out[i] * before + part.out[i] * now;
    }
    // The row's sum of weights.
    DEVICE void finish(RowState& s)
    {
        s.sum += shuffle_xor(s.sum, 1);
        s.sum += shuffle_xor(s.sum, 2);
    }
};

// Row g as operands a, for each 16 channels: [0, 2] the upper part of channels 4t .. 4t+3 in row g, [1, 3] the next part in row g + 8; the third part in row g.
template <class Element> struct Queries
{
    u32 parts[8][4];
    u32 last[Element::QueryParts == 3 ? 8 : 1][2];

    DEVICE void load(Queries& q, const float* row, int head_dim)
    {
        // Scores are powers of two.
        const float scale = 1.44269504f / __builtin_sqrtf((float)head_dim);
        UNROLL for (int k = 0; k < 8; k++)
        {
            if (16 * k >= head_dim) break;
            Four x = {};
            if (row) x = *(const Four*)(row + 16 * k + lane_index() % 4 * 4);
            UNROLL for (int i = 0; i < 4; i++) x.values[i] *= scale;
            split(x.values, q.parts[k], Element::QueryParts == 3 ? q.last[k] : nullptr);
        }
    }
    DEVICE void split(float* x, u32* parts, u32* last)
    {
        UNROLL for (int i = 0; i < 2; i++)
        {
            parts[2 * i] = upper_halves(x[2 * i], x[2 * i + 1]);
            const float first = without_upper_half(x[2 * i]), second = without_upper_half(x[2 * i + 1]);
            if (Element::QueryParts == 3)
            {
                parts[2 * i + 1] = upper_halves(first, second);
                last[i] = upper_halves(without_upper_half(first), without_upper_half(second));
            }
            else
            {
                parts[2 * i + 1] = upper_halves(rounded_half(first), rounded_half(second));
            }
        }
    }
};

template <class Element> DEVICE void multiply(float* c, const u32* parts, const u32* last, const u32* b)
{
    mma_bf16(c, parts, b);
    if (Element::QueryParts == 3)
    {
        const u32 a[4] = {last[0], 0, last[1], 0};
        mma_bf16(c, a, b);
    }
}

// Where a staged tile has what follows its keys, and its size.
template <class Element> struct Stage
{
    static const int Values = TILE * MAX_HEAD_DIM * Element::Bytes, KeyScales = 2 * Values, ValueScales = KeyScales + TILE * 4, Bytes = KeyScales + (Element::Scaled ? 2 * TILE * 4 : 0);
    static_assert(Bytes % 128 == 0, "Tiles begin at multiples of 128 bytes.");

    // Asks for a tile of a block. All threads of the block of threads, or the only warp of it, take part.
    template <int Threads> DEVICE void ask(u8* stage, const Block<Element>& block, int kv_head, int tile)
    {
        const int Pieces = 8 * Element::Bytes; // of 16 bytes in a row of values
        const int key_bytes = TILE * block.head_dim * Element::Bytes, row_bytes = block.head_dim * Element::Bytes;
        const u8* keys = Block<Element>::key_tile(block, kv_head, tile);
        const u8* values = Block<Element>::value(block, kv_head, tile * TILE);
        UNROLL for (int i = 0; i < TILE * Pieces; i += Threads)
        {
            const int piece = i + thread_x();
            if (TILE * Pieces % Threads != 0 && piece >= TILE * Pieces) break;
            if (16 * piece < key_bytes) copy_async(stage + swizzle(16 * piece), keys + 16 * piece);
            if (16 * (piece % Pieces) < row_bytes) copy_async(stage + Values + swizzle(16 * piece), values + piece / Pieces * row_bytes + 16 * (piece % Pieces));
        }
        if (Element::Scaled && thread_x() < 8)
        {
            const float* scales = (thread_x() < 4 ? Block<Element>::key_scales(block, kv_head) : Block<Element>::value_scales(block, kv_head)) + tile * TILE + thread_x() % 4 * 4;
            copy_async(stage + KeyScales + 16 * thread_x(), (const u8*)scales);
        }
    }
};

// Adds a staged tile to the rows of a warp. A row sees positions of the block up to its own; the warp's last row sees up to last.
template <class Element> DEVICE void attend(RowState& state, const Queries<Element>& q, const u8* stage, int head_dim, int tile, int seen, int last)
{
    const int t = lane_index() % 4, key_lane = Element::key_lane(), value_lane = Element::value_lane();
    float c[2][4] = {};
    _Pragma("unroll Element::Steps") for (int k = 0; k < 8; k++)
    {
        if (16 * k >= head_dim) continue;
        u32 b[Element::Parts][2][2];
        Element::keys(stage, key_lane, k, b);
        UNROLL for (int part = 0; part < Element::Parts; part++)
        {
            UNROLL for (int j = 0; j < 2; j++) multiply<Element>(c[j], q.parts[k], Element::QueryParts == 3 ? q.last[k] : nullptr, b[part][j]);
        }
    }

    // Positions 4t .. 4t+3 of the tile.
    const int position = tile * TILE + 4 * t;
    float scores[4] = {c[0][0] + c[0][2], c[1][0] + c[1][2], c[0][1] + c[0][3], c[1][1] + c[1][3]};
    if (Element::Scaled)
    {
        const Four scales = *(const Four*)(stage + Stage<Element>::KeyScales + 16 * t);
        UNROLL for (int i = 0; i < 4; i++) scores[i] *= scales.values[i];
    }
    float largest = -infinity();
    UNROLL for (int i = 0; i < 4; i++)
    {
        if (position + i > seen) scores[i] = -infinity();
        largest = larger(largest, scores[i]);
    }
    largest = larger(largest, shuffle_xor(largest, 1));
    largest = larger(largest, shuffle_xor(largest, 2));
    largest = larger(state.largest, __builtin_ceilf(largest));
    const float before = exact_power(state.largest - largest);
    state.largest = largest;
    state.sum *= before;
    UNROLL for (int i = 0; i < 4; i++)
    {
        scores[i] = power_of_two(scores[i] - largest);
        state.sum += scores[i];
    }
    if (Element::Scaled)
    {
        const Four scales = *(const Four*)(stage + Stage<Element>::ValueScales + 16 * t);
        UNROLL for (int i = 0; i < 4; i++) scores[i] = position + i > seen ? 0 : scores[i] * scales.values[i];
    }

    u32 parts[4], rest[2];
    Queries<Element>::split(scores, parts, rest);
    _Pragma("unroll Element::Groups") for (int i = 0; i < 4; i++)
    {
        if (32 * i >= head_dim) break;
        u32 b[Element::Parts][4][2];
        Element::values(stage + Stage<Element>::Values, value_lane, i, 32 * i + lane_index() / 4 * 4 < head_dim ? last + 1 - position : 0, b);
        UNROLL for (int j = 0; j < 4; j++)
        {
            float o[4] = {};
            UNROLL for (int part = 0; part < Element::Parts; part++) multiply<Element>(o, parts, rest, b[part][j]);
            state.out[8 * i + j] = state.out[8 * i + j] * before + (o[0] + o[2]);
            state.out[8 * i + 4 + j] = state.out[8 * i + 4 + j] * before + (o[1] + o[3]);
        }
    }
}

// Writes row g times a factor, [headDim].
DEVICE void write_row(const RowState& state, float factor, float* out, int head_dim)
{
    UNROLL for (int i = 0; i < 4; i++)
    {
        const int channel = 32 * i + lane_index() % 4 * 8;
        if (channel >= head_dim) break;
        UNROLL for (int c = 0; c < 8; c++) out[channel + c] = state.out[8 * i + c] * factor;
    }
}

// The tiles of the kept blocks of a sequence, one after another.
struct Cursor
{
    const u32* kept;
    int block, tile, last_block, last_slot; // of the last block, positions up to last_slot

    DEVICE bool is_at_end(const Cursor& c) { return c.block > c.last_block; }
    DEVICE bool ends_block(const Cursor& c) { return (c.tile + 1) * TILE > (c.block == c.last_block ? c.last_slot : BLOCK - 1); }
    DEVICE void skip(Cursor& c)
    {
        while (c.block <= c.last_block && !is_kept(c.kept, c.block)) c.block++;
    }
    DEVICE void advance(Cursor& c)
    {
        if (!ends_block(c))
        {
            c.tile++;
            return;
        }
        c.tile = 0;
        c.block++;
        skip(c);
    }
};

// Eight warps have 64 tokens of a pack, and share the tiles.
template <class Element> DEVICE void attend_prefill(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words,
    int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* out)
{
    const Pack pack = packs[block_z()];
    const int group = heads / kv_heads, range_heads = (kv_end - kv_begin) * group, head = block_y(), kv_head = kv_begin + head / group;
    const int shared_rows = least(64, pack.count - (int)block_x() * 64), first_row = block_x() * 64 + warp_index() * 8, rows = least(8, pack.count - first_row), g = lane_index() / 4;
    if (shared_rows <= 0) return;
    const int first_slot = positions[pack.first] % BLOCK;
    const int row = least(first_row + g, pack.count - 1), slot = first_slot + row, last_slot = first_slot + first_row + rows - 1;
    Queries<Element> q;
    Queries<Element>::load(q, query + ((s64)(pack.first + row) * range_heads + head) * head_dim, head_dim);

    Cursor next = {kept ? kept + ((s64)block_z() * range_heads + head) * words : nullptr, 0, 0, pack.block, first_slot + (int)block_x() * 64 + shared_rows - 1};
    Cursor::skip(next);
    Cursor at = next;
    u8* stages = shared<u8>();
    int asked = 0, done = 0;
    auto ask = [&]()
    {
        if (!Cursor::is_at_end(next))
        {
            Stage<Element>::template ask<256>(stages + asked % Element::Stages * Stage<Element>::Bytes, Block<Element>::of(pool, tables[(s64)pack.sequence * stride + next.block], kv_heads, head_dim), kv_head, next.tile);
            Cursor::advance(next);
        }
        asked++;
        copies_asked();
    };
    for (int i = 1; i < Element::Stages; i++) ask();

    RowState total, state;
    RowState::clear(total);
    RowState::clear(state);
    for (; !Cursor::is_at_end(at); Cursor::advance(at), done++)
    {
        copies_wait<Element::Stages - 2>();
        // Everybody sees the tile, and nobody reads the one that the next takes the place of.
        sync_threads();
        ask();
        const bool newest = at.block == pack.block;
        const int last = newest ? last_slot : BLOCK - 1;
        if (rows > 0 && at.tile * TILE <= last) attend<Element>(state, q, stages + done % Element::Stages * Stage<Element>::Bytes, head_dim, at.tile, newest ? slot : BLOCK - 1, last);
        if (!Cursor::ends_block(at)) continue;
        RowState::finish(state);
        RowState::add(total, state);
        RowState::clear(state);
    }
    if (g < rows) write_row(total, 1 / total.sum, out + ((s64)(pack.first + row) * range_heads + head) * head_dim, head_dim);
}

// A block of the cache is a warp's. partial_out [packs, heads of the range, stride, headDim], partial_sums [.., 2]: largest, sum
template <class Element> DEVICE void attend_decode(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words,
    int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* partial_out, float* partial_sums)
{
    const Pack pack = packs[block_z()];
    const int group = heads / kv_heads, range = kv_end - kv_begin, range_heads = range * group, kv = block_y() % range, first_row = block_y() / range * 8, rows = least(8, group - first_row);
    const int j = block_x(), g = lane_index() / 4;
    if (pack.count == 0 || j > pack.block || !is_kept(kept ? kept + ((s64)block_z() * range + kv) * words : nullptr, j)) return;
    const Block<Element> block = Block<Element>::of(pool, tables[(s64)pack.sequence * stride + j], kv_heads, head_dim);
    const int last = j == pack.block ? positions[pack.first] % BLOCK : BLOCK - 1, tiles = last / TILE + 1;
    u8* stages = shared<u8>();
    auto ask = [&](int tile)
    {
        if (tile < tiles) Stage<Element>::template ask<32>(stages + tile % Element::Stages * Stage<Element>::Bytes, block, kv_begin + kv, tile);
        copies_asked();
    };
    for (int tile = 0; tile < Element::Stages - 1; tile++) ask(tile);

    const int head = kv * group + first_row + least(g, rows - 1);
    Queries<Element> q;
    Queries<Element>::load(q, query + ((s64)pack.first * range_heads + head) * head_dim, head_dim);
    RowState state;
    RowState::clear(state);
    for (int tile = 0; tile < tiles; tile++)
    {
        copies_wait<Element::Stages - 2>();
        sync_warp();
        ask(tile + Element::Stages - 1);
        attend<Element>(state, q, stages + tile % Element::Stages * Stage<Element>::Bytes, head_dim, tile, last, last);
    }
    RowState::finish(state);
    if (g >= rows) return;
    const s64 place = ((s64)block_z() * range_heads + head) * stride + j;
    write_row(state, 1, partial_out + place * head_dim, head_dim);
    if (lane_index() % 4 == 0)
    {
        partial_sums[2 * place] = state.largest;
        partial_sums[2 * place + 1] = state.sum;
    }
}

// grid (2, heads of the range, packs); block 256; shared Stages · Stage::Bytes: 32768, int8 16896. kept may be null
KERNEL(256) attend_prefill_fp32(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* out)
{
    await_previous();
    attend_prefill<Fp32>(query, positions, packs, tables, stride, pool, kept, words, heads, kv_heads, kv_begin, kv_end, head_dim, out);
}

KERNEL(256) attend_prefill_bf16(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* out)
{
    await_previous();
    attend_prefill<Bf16>(query, positions, packs, tables, stride, pool, kept, words, heads, kv_heads, kv_begin, kv_end, head_dim, out);
}

KERNEL(256) attend_prefill_int8(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* out)
{
    await_previous();
    attend_prefill<Int8>(query, positions, packs, tables, stride, pool, kept, words, heads, kv_heads, kv_begin, kv_end, head_dim, out);
}

// grid (blocks of the longest sequence, kv heads of the range · (heads / kvHeads / 8 rounded up), packs); block 32; shared as attend_prefill. kept may be null
KERNEL(32) attend_decode_fp32(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* partial_out, float* partial_sums)
{
    await_previous();
    attend_decode<Fp32>(query, positions, packs, tables, stride, pool, kept, words, heads, kv_heads, kv_begin, kv_end, head_dim, partial_out, partial_sums);
}

KERNEL(32) attend_decode_bf16(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* partial_out, float* partial_sums)
{
    await_previous();
    attend_decode<Bf16>(query, positions, packs, tables, stride, pool, kept, words, heads, kv_heads, kv_begin, kv_end, head_dim, partial_out, partial_sums);
}

KERNEL(32) attend_decode_int8(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* partial_out, float* partial_sums)
{
    await_previous();
    attend_decode<Int8>(query, positions, packs, tables, stride, pool, kept, words, heads, kv_heads, kv_begin, kv_end, head_dim, partial_out, partial_sums);
}

// Adds the blocks of decode in order, 32 kept ones at a time. clear: writes zeros for the token of an empty pack, whose number the pack has.
// codes [tokens, heads of the range · headDim], scales [.., / 32]: out as packed products read it, where headDim is a multiple of 32; or null.
// grid (packs, heads of the range); block 512; shared 4 · (48 + 32 · 128 + blocks of the longest sequence)
KERNEL(512) combine_blocks(const float* partial_out, const float* partial_sums, const Pack* packs, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, int stride, int clear, float* out, s8* codes, BlockScale* scales)
{
    await_previous();
    const Pack pack = packs[block_x()];
    const int group = heads / kv_heads, range = kv_end - kv_begin, head = block_y(), channel = thread_x() % MAX_HEAD_DIM, part = thread_x() / MAX_HEAD_DIM, lane = lane_index();
    float* row = out + ((s64)pack.first * range * group + head) * head_dim;
    if (pack.count == 0)
    {
        if (!clear || part > 0 || channel >= head_dim) return;
        row[channel] = 0;
        if (codes) quantise(0, codes + (row - out) + channel, scales + ((row - out) + channel) / 32);
        return;
    }
    float* reduced = shared<float>();            // [16]
    float* sums = reduced + 16;                  // [32]
    float* outs = sums + 32;                     // [32, 128]
    int* list = (int*)(outs + 32 * MAX_HEAD_DIM);  // [blocks]
    const u32* bits = kept ? kept + ((s64)block_x() * range + head / group) * words : nullptr;
    const s64 first = ((s64)block_x() * range * group + head) * stride;
    const int blocks = pack.block + 1;
    if (warp_index() == 0)
    {
        int before = 0;
        for (int begin = 0; begin * 32 < blocks; begin += 32)
        {
            const int word = begin + lane;
            u32 here = present_bits(word, blocks);
            if (bits && here) here &= bits[word];
            const u32 own = __builtin_popcount(here);
            u32 places = own; // up to this lane's last
            UNROLL for (int lanes = 1; lanes < 32; lanes <<= 1)
            {
                const u32 lower = shuffle(places, lane - lanes);
                if (lane >= lanes) places += lower;
            }
            for (int place = before + places - own; here; here &= here - 1) list[place++] = word * 32 + __builtin_ctz(here);
            before += shuffle(places, 31);
        }
        if (lane == 0) reduced[0] = bits_float((u32)before);
    }
    sync_threads();
    const int count = (int)float_bits(reduced[0]);
    float largest = -infinity();
    for (int i = thread_x(); i < count; i += 512) largest = larger(largest, partial_sums[2 * (first + list[i])]);
    largest = warp_largest(largest);
    sync_threads();
    if (lane == 0) reduced[warp_index()] = largest;
    sync_threads();
    UNROLL for (int w = 0; w < 16; w++) largest = larger(largest, reduced[w]);

    float sum = 0, total = 0;
    for (int begin = 0; begin < count; begin += 32)
    {
        // Places behind the last block repeat it; nobody adds them.
        float values[8], weights[8], weighed[8];
        UNROLL for (int i = 0; i < 8; i++)
        {
            const s64 place = first + list[least(begin + part * 8 + i, count - 1)];
            values[i] = partial_out[place * head_dim + least(channel, head_dim - 1)];
            weights[i] = partial_sums[2 * place];
            weighed[i] = partial_sums[2 * place + 1];
        }
        UNROLL for (int i = 0; i < 8; i++)
        {
            const float weight = exact_power(weights[i] - largest);
            outs[(part * 8 + i) * MAX_HEAD_DIM + channel] = values[i] * weight;
            if (channel == 0) sums[part * 8 + i] = weighed[i] * weight;
        }
        sync_threads();
        if (part == 0 && channel < head_dim)
        {
            const int here = least(32, count - begin);
            _Pragma("unroll 8") for (int i = 0; i < 32; i++)
            {
                if (i >= here) break;
                sum += sums[i];
                total += outs[i * MAX_HEAD_DIM + channel];
            }
        }
        sync_threads();
    }
    if (part > 0 || channel >= head_dim) return;
    const float value = total * (1 / sum);
    row[channel] = value;
    if (codes) quantise(value, codes + (row - out) + channel, scales + ((row - out) + channel) / 32);
}
