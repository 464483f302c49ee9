//  Router of a mixture of experts, and what lies around the experts' products (linear.cu)
//      x        [tokens, hidden]                   float
//      router   [experts, hidden], bias [experts]  float
//  Math       p = softmax(x · routerᵀ); S = top-k of p + bias, ties to the lower index, NaN counts as -∞; w = p[S] / max(Σ p[S], normMin)
//             out = Σ over the ranks, in order, of w · result of the rank's expert; what another device has computed is added to it
//  Reference  Kernels/Reference/ReferenceExperts.cs
//  Tolerance  1e-6 for weights; sums in float

struct Tile { int expert, first, last, unused; };

// A warp has an expert, for four tokens.
// grid (experts / 8 rounded up, tokens / 4 rounded up); block 256; shared 0
KERNEL(256) router_logits(const float* x, const float* router, int tokens, int hidden, int experts, float* logits)
{
    const int expert = block_x() * 8 + warp_index(), first = block_y() * 4;
    if (expert >= experts) return;
    const float* weights = router + (s64)expert * hidden;
    float sums[4] = {};
    for (int k = lane_index(); k < hidden; k += 32)
    {
        UNROLL for (int j = 0; j < 4; j++) sums[j] = fused(weights[k], x[(s64)least(first + j, tokens - 1) * hidden + k], sums[j]);
    }
    UNROLL for (int j = 0; j < 4; j++)
    {
        const float sum = warp_sum(sums[j]);
        if (lane_index() == 0 && first + j < tokens) logits[(s64)(first + j) * experts + expert] = sum;
    }
}

// A warp has a token. At most 256 experts.
// grid tokens / 8 rounded up; block 256; shared 0
KERNEL(256) router_select(const float* logits, const float* bias, int tokens, int experts, int per_token, float norm_min, int* selected, float* weights)
{
    const int token = block_x() * 8 + warp_index(), lane = lane_index();
    if (token >= tokens) return;
    const float* row = logits + (s64)token * experts;
    float probabilities[8], scores[8];
    float largest = -infinity();
    bool broken = false;
    UNROLL for (int i = 0; i < 8; i++)
    {
        const int expert = 32 * i + lane;
        probabilities[i] = expert < experts ? row[expert] : -infinity();
        broken |= probabilities[i] != probabilities[i];
        largest = larger(largest, probabilities[i]);
    }
    largest = ballot(broken) ? not_a_number() : warp_largest(largest);
    float total = 0;
    UNROLL for (int i = 0; i < 8; i++)
    {
        probabilities[i] = 32 * i + lane < experts ? exponential(probabilities[i] - largest) : 0;
        total += probabilities[i];
    }
    total = warp_sum(total);
    u32 open = 0; // experts of this lane that may still be chosen
    UNROLL for (int i = 0; i < 8; i++)
    {
        const int expert = 32 * i + lane;
        if (expert >= experts) continue;
        probabilities[i] = probabilities[i] / total;
        const float score = probabilities[i] + bias[expert];
        scores[i] = score != score ? -infinity() : score;
        open |= 1u << i;
    }

    float sum = 0;
    for (int rank = 0; rank < per_token; rank++)
    {
        float best = -infinity(), probability = 0;
        int chosen = 1 << 30;
        UNROLL for (int i = 0; i < 8; i++)
        {
            const int expert = 32 * i + lane;
            if (!(open >> i & 1) || (chosen < 1 << 30 && !(scores[i] > best))) continue;
            best = scores[i];
            probability = probabilities[i];
            chosen = expert;
        }
        UNROLL for (int lanes = 16; lanes > 0; lanes >>= 1)
        {
            const float other = shuffle_xor(best, lanes), other_probability = shuffle_xor(probability, lanes);
            const int other_chosen = (int)shuffle_xor((u32)chosen, lanes);
            if (!(other > best || (other == best && other_chosen < chosen))) continue;
            best = other;
            probability = other_probability;
            chosen = other_chosen;
        }
        if (chosen % 32 == lane) open &= ~(1u << chosen / 32);
        sum += probability;
        if (lane == 0)
        {
            selected[(s64)token * per_token + rank] = chosen;
            weights[(s64)token * per_token + rank] = probability;
        }
    }
    sync_warp();
    const float divisor = sum >= norm_min || sum != sum ? sum : norm_min;
    for (int rank = lane; rank < per_token; rank += 32) weights[(s64)token * per_token + rank] = weights[(s64)token * per_token + rank] / divisor;
}

// Place of an expert among those that are computed here: slots[expert], which is -1 for one that is elsewhere, or without slots the number from begin.
DEVICE int place_of(int expert, const int* slots, int begin) { return slots ? slots[expert] : expert - begin; }

// Sorts the assignments (token · perToken + rank) of the experts with places 0 .. end-begin-1 by place, those of an expert in rising order, and cuts them in tiles. Assignments of other experts are left out.
// slots [all experts], or null.
// order [assignments], tiles [tile_count] where tile_count is at least assignments / tile_tokens + (end - begin), or the number of assignments where that is less; those not needed are empty.
// The tiles have places for experts. At most 512 experts.
// grid 1; block 1024; shared (32 · experts + 2 · experts + 2) · 4 with experts = end - begin
KERNEL(1024) group_experts(const int* selected, int assignments, int begin, int end, const int* slots, int tile_tokens, int tile_count, int* order, Tile* tiles)
{
    const int experts = end - begin, warp = warp_index(), lane = lane_index();
    int* counts = shared<int>();               // [32 warps, experts]: assignments, then where they go
    int* starts = counts + 32 * experts;       // [experts + 1] places in the order
    int* tile_starts = starts + experts + 1;   // [experts + 1]
    for (int i = thread_x(); i < 32 * experts; i += 1024) counts[i] = 0;
    sync_threads();

    const int share = ((assignments + 31) / 32 + 31) / 32 * 32, first = warp * share, last = least(assignments, first + share);
    for (int i = first; i < last; i += 32)
    {
        const int expert = i + lane < last ? place_of(selected[i + lane], slots, begin) : -1;
        const u32 same = match((u32)expert);
        if (expert >= 0 && expert < experts && (same & ((1u << lane) - 1)) == 0) counts[warp * experts + expert] += __builtin_popcount(same);
        sync_warp();
    }
    sync_threads();

    for (int e = thread_x(); e < experts; e += 1024)
    {
        int sum = 0;
        for (int w = 0; w < 32; w++)
        {
            const int count = counts[w * experts + e];
            counts[w * experts + e] = sum;
            sum += count;
        }
        starts[e + 1] = sum;
        tile_starts[e + 1] = (sum + tile_tokens - 1) / tile_tokens;
    }
    if (thread_x() == 0) starts[0] = tile_starts[0] = 0;
    sync_threads();
    if (thread_x() == 0)
    {
        for (int e = 0; e < experts; e++)
        {
            starts[e + 1] += starts[e];
            tile_starts[e + 1] += tile_starts[e];
        }
    }
    sync_threads();

    for (int i = first; i < last; i += 32)
    {
        const int expert = i + lane < last ? place_of(selected[i + lane], slots, begin) : -1;
        const u32 same = match((u32)expert);
        const bool here = expert >= 0 && expert < experts;
        const int before = __builtin_popcount(same & ((1u << lane) - 1));
        int place = 0;
        if (here) place = counts[warp * experts + expert];
        sync_warp();
        if (here)
        {
            order[starts[expert] + place + before] = i + lane;
            if (before == 0) counts[warp * experts + expert] = place + __builtin_popcount(same);
        }
        sync_warp();
    }
    for (int e = warp; e < experts; e += 32)
    {
        for (int tile = tile_starts[e] + lane; tile < tile_starts[e + 1]; tile += 32)
        {
            const int position = starts[e] + (tile - tile_starts[e]) * tile_tokens;
            tiles[tile] = {e, position, least(position + tile_tokens, starts[e + 1]), 0};
        }
    }
    for (int tile = tile_starts[experts] + thread_x(); tile < tile_count; tile += 1024) tiles[tile] = {0, 0, 0, 0};
}

// results [tokens · perToken, hidden]: each rank's expert's, where its place is one of 0 .. end-begin-1
// grid (tokens, hidden / 256 rounded up); block 256; shared 0
KERNEL(256) combine_experts(const float* results, const int* selected, const float* weights, int per_token, int begin, int end, const int* slots, int hidden, float* out)
{
    const int column = block_y() * 256 + thread_x();
    if (column >= hidden) return;
    const s64 token = block_x();
    float sum = 0;
    for (int rank = 0; rank < per_token; rank++)
    {
        const s64 assignment = token * per_token + rank;
        const int place = place_of(selected[assignment], slots, begin);
        if (place < 0 || place >= end - begin) continue;
        sum = fused(weights[assignment], results[assignment * hidden + column], sum);
    }
    out[token * hidden + column] = sum;
}

// out [tokens, hidden] += part [tokens, hidden]
// grid (tokens, hidden / 256 rounded up); block 256; shared 0
KERNEL(256) add_partial(const float* part, int hidden, float* out)
{
    const int column = block_y() * 256 + thread_x();
    if (column >= hidden) return;
    const s64 i = (s64)block_x() * hidden + column;
    out[i] += part[i];
}
