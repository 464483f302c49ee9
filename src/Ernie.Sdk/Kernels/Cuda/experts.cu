//  Router of a mixture of experts, and what lies around the experts' products (linear.cu)
//      x        [tokens, hidden]                   float
//      router   [experts, hidden], bias [experts]  float
//  Math       p = softmax(x · routerᵀ); S = top-k of p + bias, ties to the lower index, NaN counts as -∞; w = p[S] / max(Σ p[S], normMin)
//             out = Σ over the ranks, in order, of w · result of the rank's expert; what another device has computed is added to it
//  Reference  Kernels/Reference/ReferenceExperts.cs
//  Tolerance  1e-6 for weights; sums in float

struct Tile { int expert, first, last, unused; };

// A block of threads has four experts and four tokens, a thread every 256th piece of four columns.
// grid (experts / 4 rounded up, tokens / 4 rounded up); block 256; shared 512
KERNEL(256) router_logits(const float* x, const float* router, int tokens, int hidden, int experts, float* logits)
{
    await_previous();
    const int first_expert = block_x() * 4, first_token = block_y() * 4;
    float sums[4][4] = {};
    for (int column = thread_x() * 4; column < hidden; column += 1024)
    {
        Four weights[4], inputs[4];
        UNROLL for (int e = 0; e < 4; e++) weights[e] = load_four(router + (s64)least(first_expert + e, experts - 1) * hidden, column, hidden);
        UNROLL for (int j = 0; j < 4; j++) inputs[j] = load_four(x + (s64)least(first_token + j, tokens - 1) * hidden, column, hidden);
        UNROLL for (int e = 0; e < 4; e++)
        {
            UNROLL for (int j = 0; j < 4; j++)
            {
                UNROLL for (int i = 0; i < 4; i++) sums[e][j] = fused(weights[e].values[i], inputs[j].values[i], sums[e][j]);
            }
        }
    }
    float* warps = shared<float>(); // [8, 4 experts, 4 tokens]
    UNROLL for (int e = 0; e < 4; e++)
    {
        UNROLL for (int j = 0; j < 4; j++)
        {
            const float sum = warp_sum(sums[e][j]);
            if (lane_index() == 0) warps[warp_index() * 16 + e * 4 + j] = sum;
        }
    }
    sync_threads();
    const int expert = first_expert + thread_x() / 4, token = first_token + thread_x() % 4;
    if (thread_x() >= 16 || expert >= experts || token >= tokens) return;
    float sum = 0;
    UNROLL for (int w = 0; w < 8; w++) sum += warps[w * 16 + thread_x()];
    logits[(s64)token * experts + expert] = sum;
}

// A warp has a token. At most 256 experts.
DEVICE void select_experts(int token, const float* logits, const float* bias, int experts, int per_token, float norm_min, int* selected, float* weights)
{
    const int lane = lane_index();
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
// A block of 1024 threads; shared (34 · experts + 2) · 4 with experts = end - begin
DEVICE void group(const int* selected, int assignments, int begin, int end, const int* slots, int tile_tokens, int tile_count, int* order, Tile* tiles)
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
        int sum = 0, each[32];
        UNROLL for (int w = 0; w < 32; w++) each[w] = counts[w * experts + e];
        UNROLL for (int w = 0; w < 32; w++)
        {
            counts[w * experts + e] = sum;
            sum += each[w];
        }
        starts[e + 1] = sum;
        tile_starts[e + 1] = (sum + tile_tokens - 1) / tile_tokens;
    }
    if (thread_x() == 0) starts[0] = tile_starts[0] = 0;
    sync_threads();
    if (warp < 2)
    {
        int* sums = warp == 0 ? starts : tile_starts;
        int before = 0;
        for (int begin = 0; begin < experts; begin += 32)
        {
            int sum = begin + lane < experts ? sums[begin + lane + 1] : 0;
            UNROLL for (int lanes = 1; lanes < 32; lanes <<= 1)
            {
                const int lower = (int)shuffle((u32)sum, lane - lanes);
                if (lane >= lanes) sum += lower;
            }
            if (begin + lane < experts) sums[begin + lane + 1] = before + sum;
            before += (int)shuffle((u32)sum, 31);
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

// grid tokens / 8 rounded up; block 256; shared 0
KERNEL(256) router_select(const float* logits, const float* bias, int tokens, int experts, int per_token, float norm_min, int* selected, float* weights)
{
    await_previous();
    const int token = block_x() * 8 + warp_index();
    if (token < tokens) select_experts(token, logits, bias, experts, per_token, norm_min, selected, weights);
}

// grid 1; block 1024; shared as group says
KERNEL(1024) group_experts(const int* selected, int assignments, int begin, int end, const int* slots, int tile_tokens, int tile_count, int* order, Tile* tiles)
{
    await_previous();
    group(selected, assignments, begin, end, slots, tile_tokens, tile_count, order, tiles);
}

// Both, for at most 32 tokens.
// grid 1; block 1024; shared as group says
KERNEL(1024) select_and_group_experts(const float* logits, const float* bias, int tokens, int experts, int per_token, float norm_min, int* selected, float* weights,
    int begin, int end, const int* slots, int tile_tokens, int tile_count, int* order, Tile* tiles)
{
    await_previous();
    if (warp_index() < tokens) select_experts(warp_index(), logits, bias, experts, per_token, norm_min, selected, weights);
    sync_threads();
    group(selected, tokens * per_token, begin, end, slots, tile_tokens, tile_count, order, tiles);
}

// results [tokens · perToken, hidden]: each rank's expert's, where its place is one of 0 .. end-begin-1
// grid (tokens, hidden / 256 rounded up); block 256; shared 0
KERNEL(256) combine_experts(const float* results, const int* selected, const float* weights, int per_token, int begin, int end, const int* slots, int hidden, float* out)
{
    await_previous();
    const int column = block_y() * 256 + thread_x();
    if (column >= hidden) return;
    const s64 token = block_x();
    float sum = 0;
    for (int first = 0; first < per_token; first += 8)
    {
        // Eight results are on their way at once.
        float values[8], factors[8];
        bool here[8];
        UNROLL for (int i = 0; i < 8; i++)
        {
            const s64 assignment = token * per_token + least(first + i, per_token - 1);
            const int place = place_of(selected[assignment], slots, begin);
            here[i] = first + i < per_token && place >= 0 && place < end - begin;
            values[i] = here[i] ? results[assignment * hidden + column] : 0;
            factors[i] = weights[assignment];
        }
        UNROLL for (int i = 0; i < 8; i++)
        {
            if (here[i]) sum = fused(factors[i], values[i], sum);
        }
    }
    out[token * hidden + column] = sum;
}

// out [tokens, hidden] += part [tokens, hidden]
// grid (tokens, hidden / 256 rounded up); block 256; shared 0
KERNEL(256) add_partial(const float* part, int hidden, float* out)
{
    await_previous();
    const int column = block_y() * 256 + thread_x();
    if (column >= hidden) return;
    const s64 i = (s64)block_x() * hidden + column;
    out[i] += part[i];
}
