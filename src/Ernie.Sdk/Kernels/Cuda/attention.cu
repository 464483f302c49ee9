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
//  A warp takes 16 positions at a time. Running maxima are whole powers of two, so that rescaling is exact and does not depend on where a sum is cut. A split, 2 blocks of the sequence, is summed from
//  zero; splits are added in order. Decode spreads splits over warps and prefill does not: dense tokens have the same bits in both.

#define BLOCK 128
#define SPLIT_BLOCKS 2

struct Pack { int sequence, first, count, block; };
struct Limits { int encoder_left, encoder_right, encoder_limit, decoder_left, decoder_right, decoder_limit; };
struct alignas(16) Four { float values[4]; };

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
    int* first = shared<int>();        // [sequences] packs of the sequence, then the first of them
    int* state = first + sequences;    // flags, read once: a sequence may die meanwhile
    for (int s = thread_x(); s < sequences; s += 256)
    {
        const int begin = starts[s], count = starts[s + 1] - begin;
        state[s] = count > 0 ? flags[s] : 2;
        first[s] = state[s] == 0 ? (positions[begin] % BLOCK + count + BLOCK - 1) / BLOCK : 0;
        Pack pack = {0, 0, 0, 0};
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
    const s64 i = (s64)block_x() * 256 + thread_x();
    if (i < count) words[i] = 0;
}

DEVICE u32 upper_halves(float low, float high) { return byte_permute(float_bits(low), float_bits(high), 0x7632); }
DEVICE float without_upper_half(float x) { return x - bits_float(float_bits(x) & 0xffff0000u); }
// To nearest in the upper half.
DEVICE float rounded_half(float x) { return bits_float(float_bits(x) + 0x7fff + (float_bits(x) >> 16 & 1)); }

// An element of the cache: how a lane (g = lane / 4, t = lane % 4) fetches 4 channels of positions 2g and 2g + 1 of a key tile, and 4 channels of 4 positions of the values, as operands b of mma.
struct Bf16
{
    static const int Bytes = 2, Parts = 1, QueryParts = 2, Steps = 8, Groups = 4;
    static const bool Scaled = false;
    DEVICE float load(const u8* source) { return from_bf16(*(const u16*)source); }
    DEVICE void store(u8* target, float value, float) { *(u16*)target = (u16)to_bf16(value); }

    // b [parts][2 tiles of positions][2]
    DEVICE void keys(const u8* tile, int channel, u32 b[1][2][2])
    {
        u32 pairs[4];
        UNROLL for (int i = 0; i < 4; i++) pairs[i] = *(const u32*)(tile + ((channel + i) * 16 + lane_index() / 4 * 2) * 2);
        UNROLL for (int i = 0; i < 2; i++)
        {
            b[0][0][i] = byte_permute(pairs[2 * i], pairs[2 * i + 1], 0x5410);
            b[0][1][i] = byte_permute(pairs[2 * i], pairs[2 * i + 1], 0x7632);
        }
    }
    // b [parts][4 channels][2]; positions behind the last one count as zero, whatever the cache holds there
    DEVICE void values(const u8* first, int head_dim, int channel, int positions, u32 b[1][4][2])
    {
        u64 rows[4];
        UNROLL for (int i = 0; i < 4; i++) rows[i] = i < positions ? *(const u64*)(first + (i * head_dim + channel) * 2) : 0;
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
    static const int Bytes = 1, Parts = 1, QueryParts = 2, Steps = 8, Groups = 4;
    static const bool Scaled = true;
    DEVICE float load(const u8* source) { return (float)(int)*(const s8*)source; }
    DEVICE void store(u8* target, float value, float scale) { *(s8*)target = (s8)(scale > 0 ? (int)round_even(value / scale) : 0); }

    // Byte i of four, as float: 2^23 has its last bit at 1.
    DEVICE float widen(u32 codes, int i) { return bits_float(byte_permute(codes ^ 0x80808080u, 0x4b000000u, 0x7440 + i)) - 8388736; }

    DEVICE void keys(const u8* tile, int channel, u32 b[1][2][2])
    {
        u32 pairs[4];
        UNROLL for (int i = 0; i < 4; i++) pairs[i] = *(const u16*)(tile + (channel + i) * 16 + lane_index() / 4 * 2);
        UNROLL for (int i = 0; i < 2; i++)
        {
            b[0][0][i] = upper_halves(widen(pairs[2 * i], 0), widen(pairs[2 * i + 1], 0));
            b[0][1][i] = upper_halves(widen(pairs[2 * i], 1), widen(pairs[2 * i + 1], 1));
        }
    }
    DEVICE void values(const u8* first, int head_dim, int channel, int positions, u32 b[1][4][2])
    {
        u32 rows[4];
        UNROLL for (int i = 0; i < 4; i++) rows[i] = i < positions ? *(const u32*)(first + i * head_dim + channel) : 0;
        UNROLL for (int j = 0; j < 4; j++)
        {
            UNROLL for (int i = 0; i < 2; i++) b[0][j][i] = upper_halves(widen(rows[2 * i], j), widen(rows[2 * i + 1], j));
        }
    }
};

struct Fp32
{
    // Not unrolled: for comparisons, where the size of the code matters more than its speed.
    static const int Bytes = 4, Parts = 3, QueryParts = 3, Steps = 1, Groups = 1;
    static const bool Scaled = false;
    DEVICE float load(const u8* source) { return *(const float*)source; }
    DEVICE void store(u8* target, float value, float) { *(float*)target = value; }

    DEVICE void split(float first, float second, u32* b, int stride)
    {
        UNROLL for (int part = 0; part < 3; part++)
        {
            b[part * stride] = upper_halves(first, second);
            first = without_upper_half(first);
            second = without_upper_half(second);
        }
    }
    DEVICE void keys(const u8* tile, int channel, u32 b[3][2][2])
    {
        UNROLL for (int j = 0; j < 2; j++)
        {
            const float* values = (const float*)tile + channel * 16 + lane_index() / 4 * 2 + j;
            UNROLL for (int i = 0; i < 2; i++) split(values[32 * i], values[32 * i + 16], &b[0][j][i], 4);
        }
    }
    DEVICE void values(const u8* first, int head_dim, int channel, int positions, u32 b[3][4][2])
    {
        Four rows[4] = {};
        UNROLL for (int i = 0; i < 4; i++)
        {
            if (i < positions) rows[i] = *(const Four*)((const float*)first + i * head_dim + channel);
        }
        UNROLL for (int j = 0; j < 4; j++)
        {
            UNROLL for (int i = 0; i < 2; i++) split(rows[2 * i].values[j], rows[2 * i + 1].values[j], &b[0][j][i], 8);
        }
    }
};

// ---- rotation, cache, summaries ----

// A warp has a row of a token: y[2i] = x[2i]·cos - x[2i+1]·sin, y[2i+1] = x[2i]·sin + x[2i+1]·cos.
template <class Element> DEVICE void rotate_append(const float* qkv, const int* positions, const float* angles, const Pack* packs, const int* tables, int stride, u8* pool,
    int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* query)
{
    const Pack pack = packs[block_x()];
    const int group = heads / kv_heads, range_heads = (kv_end - kv_begin) * group, range = kv_end - kv_begin, lane = lane_index();
    const int kind = block_y() < range_heads ? 0 : block_y() < range_heads + range ? 1 : 2; // q, k, v
    const int index = kind == 0 ? block_y() : (block_y() - range_heads) % range;            // in the range
    const int row = kind == 0 ? kv_begin * group + index : heads + (kind - 1) * kv_heads + kv_begin + index;
    const Block<Element> block = Block<Element>::of(pool, tables[(s64)pack.sequence * stride + pack.block], kv_heads, head_dim);
    for (int i = warp_index(); i < pack.count; i += 8)
    {
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
}

// Sums of the cached keys of the packs' blocks, and those under the gate [kvHeads, 128, headDim], unless that is null. A thread has a channel.
template <class Element> DEVICE void summarise(const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const float* gate, int kv_heads, int kv_begin, int head_dim)
{
    const Pack pack = packs[block_x()];
    const int kv_head = kv_begin + block_y(), channel = thread_x(), present = positions[pack.first] % BLOCK + pack.count;
    if (pack.count == 0 || channel >= head_dim) return;
    const Block<Element> block = Block<Element>::of(pool, tables[(s64)pack.sequence * stride + pack.block], kv_heads, head_dim);
    float sum = 0, gated = 0;
    for (int tile = 0; tile * 16 < present; tile++)
    {
        const u8* keys = Block<Element>::key_tile(block, kv_head, tile) + channel * 16 * Element::Bytes;
        float tile_sum = 0, tile_gated = 0;
        for (int i = 0; i < least(16, present - tile * 16); i++)
        {
            const int position = tile * 16 + i;
            float key = Element::load(keys + i * Element::Bytes);
            if (Element::Scaled) key *= Block<Element>::key_scales(block, kv_head)[position];
            tile_sum += key;
            if (gate) tile_gated = fused(key, gate[((s64)kv_head * BLOCK + position) * head_dim + channel], tile_gated);
        }
        sum += tile_sum;
        gated += tile_gated;
    }
    Block<Element>::key_sum(block, kv_head)[channel] = sum;
    if (gate) Block<Element>::gated_sum(block, kv_head)[channel] = gated;
}

// grid (packs, heads of the range + 2 · kv heads of the range); block 256; shared 0
KERNEL(256) rotate_append_fp32(const float* qkv, const int* positions, const float* angles, const Pack* packs, const int* tables, int stride, u8* pool, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* query)
{
    rotate_append<Fp32>(qkv, positions, angles, packs, tables, stride, pool, heads, kv_heads, kv_begin, kv_end, head_dim, query);
}

KERNEL(256) rotate_append_bf16(const float* qkv, const int* positions, const float* angles, const Pack* packs, const int* tables, int stride, u8* pool, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* query)
{
    rotate_append<Bf16>(qkv, positions, angles, packs, tables, stride, pool, heads, kv_heads, kv_begin, kv_end, head_dim, query);
}

KERNEL(256) rotate_append_int8(const float* qkv, const int* positions, const float* angles, const Pack* packs, const int* tables, int stride, u8* pool, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* query)
{
    rotate_append<Int8>(qkv, positions, angles, packs, tables, stride, pool, heads, kv_heads, kv_begin, kv_end, head_dim, query);
}

// grid (packs, kv heads of the range); block 128; shared 0
KERNEL(128) summarise_fp32(const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const float* gate, int kv_heads, int kv_begin, int head_dim)
{
    summarise<Fp32>(positions, packs, tables, stride, pool, gate, kv_heads, kv_begin, head_dim);
}

KERNEL(128) summarise_bf16(const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const float* gate, int kv_heads, int kv_begin, int head_dim)
{
    summarise<Bf16>(positions, packs, tables, stride, pool, gate, kv_heads, kv_begin, head_dim);
}

KERNEL(128) summarise_int8(const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const float* gate, int kv_heads, int kv_begin, int head_dim)
{
    summarise<Int8>(positions, packs, tables, stride, pool, gate, kv_heads, kv_begin, head_dim);
}

// ---- selection ----

// Eight queries, a warp each: tokens of a pack under one head, or the heads of one token that share keys. block_bytes and sum_offset are KvBlockLayout's BlockBytes and KeySum(0).
template <bool Decode> DEVICE void select(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, const u8* pool, int block_bytes, int sum_offset, const Limits* limits, bool gated,
    int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, int words, u32* kept)
{
    const Pack pack = packs[block_x()];
    const int group = heads / kv_heads, range_heads = (kv_end - kv_begin) * group, list = block_y(), first_row = block_z() * 8, row = warp_index(), lane = lane_index();
    const int rows = least(8, (Decode ? group : pack.count) - first_row), blocks = pack.block + 1;
    if (pack.count == 0 || rows <= 0) return;
    const Limits limit = limits[pack.sequence];
    const int position = positions[pack.first], present = position % BLOCK + pack.count;
    u32* bits = kept + ((s64)block_x() * (Decode ? kv_end - kv_begin : range_heads) + list) * words;
    const bool dense = Decode ? limit.decoder_left == 0 || position < limit.decoder_limit : limit.encoder_left == 0 || BLOCK * blocks < limit.encoder_limit;
    if (dense)
    {
        if (first_row != 0) return;
        for (int word = thread_x(); word * 32 < blocks; word += 256) atomic_or(bits + word, blocks >= word * 32 + 32 ? ~0u : (1u << blocks % 32) - 1);
        return;
    }

    float* queries = shared<float>();           // [8, headDim]
    float* scores = queries + 8 * head_dim;     // [8, blocks]
    for (int i = thread_x(); i < rows * head_dim; i += 256)
    {
        const int r = first_row + i / head_dim;
        const s64 token = Decode ? pack.first : pack.first + r;
        queries[i] = query[(token * range_heads + (Decode ? list * group + r : list)) * head_dim + i % head_dim];
    }
    sync_threads();
    const int kv_head = kv_begin + (Decode ? list : list / group);
    for (int j = thread_x(); j < blocks; j += 256)
    {
        const float* sums = (const float*)(pool + (s64)tables[(s64)pack.sequence * stride + j] * block_bytes + sum_offset) + ((gated ? kv_heads : 0) + kv_head) * head_dim;
        float dots[8] = {};
        for (int c = 0; c < head_dim; c += 4)
        {
            const Four sum = *(const Four*)(sums + c);
            UNROLL for (int r = 0; r < 8; r++)
            {
                if (r >= rows) break;
                const Four q = *(const Four*)(queries + r * head_dim + c);
                UNROLL for (int i = 0; i < 4; i++) dots[r] = fused(q.values[i], sum.values[i], dots[r]);
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
        if (Decode && pack.block > 0) atomic_or(bits + (pack.block - 1) / 32, 1u << (pack.block - 1) % 32);
    }
    if (row >= rows) return;
    scores += row * blocks;
    float low = infinity(), high = -infinity();
    for (int j = lane; j < blocks; j += 32)
    {
        low = -larger(-low, -scores[j]);
        high = larger(high, scores[j]);
    }
    low = -warp_largest(-low);
    high = warp_largest(high);
    const int left = Decode ? limit.decoder_left : limit.encoder_left, right = Decode ? limit.decoder_right : limit.encoder_right;
    float threshold = low;
    for (int round = 0; round < 6 && low < high; round++)
    {
        threshold = (low + high) / 2;
        int count = 0;
        for (int j = 0; j < blocks; j += 32) count += __builtin_popcount(ballot(j + lane < blocks && scores[j + lane] >= threshold));
        if (count < left) high = threshold;
        else if (count > right) low = threshold;
        else break;
    }
    for (int j = 0; j < blocks; j += 32)
    {
        const u32 chosen = ballot(j + lane < blocks && scores[j + lane] >= threshold);
        if (lane == 0 && chosen) atomic_or(bits + j / 32, chosen);
    }
}

// grid (packs, heads of the range, 16); block 256; shared 32 · (headDim + blocks of the longest sequence). gated: by gated sums instead of means
KERNEL(256) select_prefill(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, const u8* pool, int block_bytes, int sum_offset, const Limits* limits, int gated,
    int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, int words, u32* kept)
{
    select<false>(query, positions, packs, tables, stride, pool, block_bytes, sum_offset, limits, gated, heads, kv_heads, kv_begin, kv_end, head_dim, words, kept);
}

// grid (packs, kv heads of the range, heads / kvHeads / 8 rounded up); block 256; shared as select_prefill
KERNEL(256) select_decode(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, const u8* pool, int block_bytes, int sum_offset, const Limits* limits,
    int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, int words, u32* kept)
{
    select<true>(query, positions, packs, tables, stride, pool, block_bytes, sum_offset, limits, false, heads, kv_heads, kv_begin, kv_end, head_dim, words, kept);
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

// Adds a block of the cache to the rows of a warp. A row sees positions of the block up to its own; the warp's last row sees up to last.
template <class Element> DEVICE void attend(RowState& state, const Queries<Element>& q, const Block<Element>& block, int kv_head, int seen, int last)
{
    const int t = lane_index() % 4, head_dim = block.head_dim;
    for (int tile = 0; tile * 16 <= last; tile++)
    {
        float c[2][4] = {};
        const u8* keys = Block<Element>::key_tile(block, kv_head, tile);
        _Pragma("unroll Element::Steps") for (int k = 0; k < 8; k++)
        {
            if (16 * k >= head_dim) break;
            u32 b[Element::Parts][2][2];
            Element::keys(keys, 16 * k + 4 * t, b);
            UNROLL for (int part = 0; part < Element::Parts; part++)
            {
                UNROLL for (int j = 0; j < 2; j++) multiply<Element>(c[j], q.parts[k], Element::QueryParts == 3 ? q.last[k] : nullptr, b[part][j]);
            }
        }

        // Positions 4t .. 4t+3 of the tile.
        const int position = tile * 16 + 4 * t;
        float scores[4] = {c[0][0] + c[0][2], c[1][0] + c[1][2], c[0][1] + c[0][3], c[1][1] + c[1][3]};
        if (Element::Scaled)
        {
            const Four scales = *(const Four*)(Block<Element>::key_scales(block, kv_head) + position);
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
            const Four scales = *(const Four*)(Block<Element>::value_scales(block, kv_head) + position);
            UNROLL for (int i = 0; i < 4; i++) scores[i] = position + i > seen ? 0 : scores[i] * scales.values[i];
        }

        u32 parts[4], rest[2];
        Queries<Element>::split(scores, parts, rest);
        const u8* values = Block<Element>::value(block, kv_head, position);
        _Pragma("unroll Element::Groups") for (int i = 0; i < 4; i++)
        {
            if (32 * i >= head_dim) break;
            const int channel = 32 * i + lane_index() / 4 * 4;
            u32 b[Element::Parts][4][2];
            Element::values(values, head_dim, channel, channel < head_dim ? last + 1 - position : 0, b);
            UNROLL for (int j = 0; j < 4; j++)
            {
                float o[4] = {};
                UNROLL for (int part = 0; part < Element::Parts; part++) multiply<Element>(o, parts, rest, b[part][j]);
                state.out[8 * i + j] = state.out[8 * i + j] * before + (o[0] + o[2]);
                state.out[8 * i + 4 + j] = state.out[8 * i + 4 + j] * before + (o[1] + o[3]);
            }
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

template <class Element> DEVICE void attend_prefill(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words,
    int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* out)
{
    const Pack pack = packs[block_z()];
    const int group = heads / kv_heads, range_heads = (kv_end - kv_begin) * group, head = block_y(), kv_head = kv_begin + head / group;
    const int first_row = (block_x() * 4 + warp_index()) * 8, rows = least(8, pack.count - first_row), g = lane_index() / 4;
    if (rows <= 0) return;
    const u32* bits = kept ? kept + ((s64)block_z() * range_heads + head) * words : nullptr;
    const int row = first_row + least(g, rows - 1), slot = positions[pack.first] % BLOCK + first_row;
    Queries<Element> q;
    Queries<Element>::load(q, query + ((s64)(pack.first + row) * range_heads + head) * head_dim, head_dim);

    RowState total;
    RowState::clear(total);
    for (int first = 0; first <= pack.block; first += SPLIT_BLOCKS)
    {
        RowState state;
        RowState::clear(state);
        bool any = false;
        for (int j = first; j <= least(pack.block, first + SPLIT_BLOCKS - 1); j++)
        {
            if (!is_kept(bits, j)) continue;
            any = true;
            const bool newest = j == pack.block;
            const Block<Element> block = Block<Element>::of(pool, tables[(s64)pack.sequence * stride + j], kv_heads, head_dim);
            attend<Element>(state, q, block, kv_head, newest ? slot + row - first_row : BLOCK - 1, newest ? slot + rows - 1 : BLOCK - 1);
        }
        if (!any) continue;
        RowState::finish(state);
        RowState::add(total, state);
    }
    if (g < rows) write_row(total, 1 / total.sum, out + ((s64)(pack.first + row) * range_heads + head) * head_dim, head_dim);
}

// A split of the cache is a warp's. partial_out [packs, heads of the range, splits, headDim], partial_sums [.., 2]: largest, sum
template <class Element> DEVICE void attend_decode(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words,
    int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, int splits, float* partial_out, float* partial_sums)
{
    const Pack pack = packs[block_z()];
    const int group = heads / kv_heads, range = kv_end - kv_begin, range_heads = range * group, kv = block_y() % range, first_row = block_y() / range * 8, rows = least(8, group - first_row);
    const int split = block_x() * 4 + warp_index(), first = split * SPLIT_BLOCKS, end = least(pack.block, first + SPLIT_BLOCKS - 1), g = lane_index() / 4;
    if (pack.count == 0 || first > pack.block) return;
    const u32* bits = kept ? kept + ((s64)block_z() * range + kv) * words : nullptr;
    bool any = false;
    for (int j = first; j <= end; j++) any |= is_kept(bits, j);
    if (!any) return;
    const int head = kv * group + first_row + least(g, rows - 1), slot = positions[pack.first] % BLOCK;
    Queries<Element> q;
    Queries<Element>::load(q, query + ((s64)pack.first * range_heads + head) * head_dim, head_dim);

    RowState state;
    RowState::clear(state);
    for (int j = first; j <= end; j++)
    {
        if (!is_kept(bits, j)) continue;
        const int last = j == pack.block ? slot : BLOCK - 1;
        attend<Element>(state, q, Block<Element>::of(pool, tables[(s64)pack.sequence * stride + j], kv_heads, head_dim), kv_begin + kv, last, last);
    }
    RowState::finish(state);
    if (g >= rows) return;
    const s64 place = ((s64)block_z() * range_heads + head) * splits + split;
    write_row(state, 1, partial_out + place * head_dim, head_dim);
    if (lane_index() % 4 == 0)
    {
        partial_sums[2 * place] = state.largest;
        partial_sums[2 * place + 1] = state.sum;
    }
}

// grid (4, heads of the range, packs); block 128; shared 0. kept may be null
KERNEL(128) attend_prefill_fp32(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* out)
{
    attend_prefill<Fp32>(query, positions, packs, tables, stride, pool, kept, words, heads, kv_heads, kv_begin, kv_end, head_dim, out);
}

KERNEL(128) attend_prefill_bf16(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* out)
{
    attend_prefill<Bf16>(query, positions, packs, tables, stride, pool, kept, words, heads, kv_heads, kv_begin, kv_end, head_dim, out);
}

KERNEL(128) attend_prefill_int8(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, float* out)
{
    attend_prefill<Int8>(query, positions, packs, tables, stride, pool, kept, words, heads, kv_heads, kv_begin, kv_end, head_dim, out);
}

// grid (splits / 4 rounded up, kv heads of the range · (heads / kvHeads / 8 rounded up), packs); block 128; shared 0. splits: blocks of the longest sequence / 2, rounded up; kept may be null
KERNEL(128) attend_decode_fp32(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, int splits, float* partial_out, float* partial_sums)
{
    attend_decode<Fp32>(query, positions, packs, tables, stride, pool, kept, words, heads, kv_heads, kv_begin, kv_end, head_dim, splits, partial_out, partial_sums);
}

KERNEL(128) attend_decode_bf16(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, int splits, float* partial_out, float* partial_sums)
{
    attend_decode<Bf16>(query, positions, packs, tables, stride, pool, kept, words, heads, kv_heads, kv_begin, kv_end, head_dim, splits, partial_out, partial_sums);
}

KERNEL(128) attend_decode_int8(const float* query, const int* positions, const Pack* packs, const int* tables, int stride, u8* pool, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, int splits, float* partial_out, float* partial_sums)
{
    attend_decode<Int8>(query, positions, packs, tables, stride, pool, kept, words, heads, kv_heads, kv_begin, kv_end, head_dim, splits, partial_out, partial_sums);
}

// Adds the splits of decode in order.
// grid (packs, heads of the range); block 128; shared 16
KERNEL(128) combine_splits(const float* partial_out, const float* partial_sums, const Pack* packs, const u32* kept, int words, int heads, int kv_heads, int kv_begin, int kv_end, int head_dim, int splits, float* out)
{
    const Pack pack = packs[block_x()];
    if (pack.count == 0) return;
    const int group = heads / kv_heads, range = kv_end - kv_begin, head = block_y(), count = pack.block / SPLIT_BLOCKS + 1, channel = thread_x();
    const u32* bits = kept ? kept + ((s64)block_x() * range + head / group) * words : nullptr;
    const s64 first = ((s64)block_x() * range * group + head) * splits;
    // Splits begin at even blocks: both bits lie in one word.
    auto is_empty = [=](int split) { return bits && (bits[split / 16] >> split % 16 * 2 & 3) == 0; };
    float largest = -infinity();
    for (int split = thread_x(); split < count; split += 128)
    {
        if (!is_empty(split)) largest = larger(largest, partial_sums[2 * (first + split)]);
    }
    largest = warp_largest(largest);
    if (lane_index() == 0) shared<float>()[warp_index()] = largest;
    sync_threads();
    UNROLL for (int w = 0; w < 4; w++) largest = larger(largest, shared<float>()[w]);
    if (channel >= head_dim) return;
    float sum = 0, total = 0;
    for (int split = 0; split < count; split++)
    {
        if (is_empty(split)) continue;
        const float weight = exact_power(partial_sums[2 * (first + split)] - largest);
        sum += partial_sums[2 * (first + split) + 1] * weight;
        total += partial_out[(first + split) * head_dim + channel] * weight;
    }
    out[((s64)pack.first * range * group + head) * head_dim + channel] = total * (1 / sum);
}
