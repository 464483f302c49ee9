//  The next token of a sequence from its logits
//      logits  [rows, vocabulary]                    float
//      rows    one for each sequence (Row below)
//  Math       undefined rows; repetition, frequency and presence penalties; bias; allowed tokens; temperature; softmax; min-p; top-k; top-p; draw: FastDeploy's order.
//             Log-probabilities are those of the logits as they came
//  Reference  Engine/Sampler.cs, Engine/TokenProbabilities.cs
//  Tolerance  sums are in units of 2^-44 of the largest weight, so that their order does not matter; a boundary that is closer than that, or than the last bit of e^x, may fall to either side
//
//  A block of 1024 threads has a row. Positive floats are ordered as their bits are: three histograms of ten bits find a place in the order "largest weight first, equal ones by id" without sorting.

#define THREADS 1024

struct Row
{
    u64 seed;
    float temperature, top_p, min_p, repetition, frequency, presence;
    int top_k;
    int greedy;                        // the likeliest token, whatever stands above
    int logits_row;                    // -1: this sequence gets no token
    int history_begin, history_end;    // in history_ids and history_counts: every token of prompt and answer once, and how often the answer has it
    int bias_begin, bias_end;          // in bias_ids and bias_values
    int allowed;                       // row of allowed masks, or -1: every token
    int draw;                          // number of the draw in its sequence
    int top;                           // how many of the likeliest tokens are wanted, -1: no log-probabilities
};

struct Workspace
{
    u64 sums[THREADS];
    u64 totals[32];
    float values[32];
    int ids[32];
    u64 rest;      // what a search still needs inside its bucket
    int found;
};

struct Best { float value; int id; };

// Which tokens are left: at least of a weight, and in the order not behind a place.
struct Kept { float least; float last; int last_id; };
DEVICE bool holds(const Kept& kept, float weight, int id) { return weight >= kept.least && (weight > kept.last || (weight == kept.last && id <= kept.last_id)); }

DEVICE u64 units(float weight) { return (u64)(weight * 17592186044416.0f); }

DEVICE u64 shuffle(u64 value, int lane) { return (u64)shuffle((u32)(value >> 32), lane) << 32 | shuffle((u32)value, lane); }

// Sum of the threads up to and with this one, and of all.
DEVICE u64 scan(Workspace* w, u64 value, u64* total)
{
    const int lane = lane_index();
    UNROLL for (int step = 1; step < 32; step *= 2)
    {
        const u64 other = shuffle(value, lane - step);
        if (lane >= step) value += other;
    }
    sync_threads();
    if (lane == 31) w->totals[warp_index()] = value;
    sync_threads();
    u64 before = 0, all = 0;
    UNROLL for (int i = 0; i < 32; i++)
    {
        if (i < warp_index()) before += w->totals[i];
        all += w->totals[i];
    }
    *total = all;
    return before + value;
}

DEVICE u64 block_sum(Workspace* w, u64 value)
{
    u64 total;
    scan(w, value, &total);
    return total;
}

DEVICE bool is_better(const Best& a, const Best& b) { return a.value > b.value || (a.value == b.value && a.id < b.id); }

// The largest value, of equal ones that with the lowest id. No thread has one: id 2^30.
DEVICE Best block_best(Workspace* w, Best best)
{
    UNROLL for (int lanes = 16; lanes > 0; lanes >>= 1)
    {
        const Best other = {shuffle_xor(best.value, lanes), (int)shuffle_xor((u32)best.id, lanes)};
        if (is_better(other, best)) best = other;
    }
    sync_threads();
    if (lane_index() == 0)
    {
        w->values[warp_index()] = best.value;
        w->ids[warp_index()] = best.id;
    }
    sync_threads();
    UNROLL for (int i = 0; i < 32; i++)
    {
        const Best other = {w->values[i], w->ids[i]};
        if (is_better(other, best)) best = other;
    }
    return best;
}

// Every value of a row, those of a thread in rising order; 16 of them are on their way at once.
template <class Visit> DEVICE void for_each(const float* values, int count, Visit visit)
{
    for (int first = thread_x(); first < count; first += 16 * THREADS)
    {
        float some[16];
        // Behind the end the thread's own first one again: another's may be written meanwhile.
        UNROLL for (int i = 0; i < 16; i++) some[i] = values[first + i * THREADS < count ? first + i * THREADS : first];
        UNROLL for (int i = 0; i < 16; i++)
        {
            if (first + i * THREADS < count) visit(first + i * THREADS, some[i]);
        }
    }
}

DEVICE Best nobody() { return {-infinity(), 1 << 30}; }

// The token at whose place, by id, the sum of measure(id, weight) reaches the target, which the sum of all tokens reaches. First the warp that has it among its ids, then all threads look there.
template <class Measure> DEVICE int find_by_id(Workspace* w, const float* weights, int vocabulary, u64 target, Measure measure)
{
    const int share = (vocabulary + THREADS - 1) / THREADS, of_warp = 32 * share, begin = warp_index() * of_warp;
    u64 sum = 0;
    for (int first = 0; first < share; first += 16)
    {
        float some[16];
        UNROLL for (int i = 0; i < 16; i++) some[i] = weights[least(begin + 32 * (first + i) + lane_index(), vocabulary - 1)];
        UNROLL for (int i = 0; i < 16; i++)
        {
            const int id = begin + 32 * (first + i) + lane_index();
            if (first + i < share && id < vocabulary) sum += measure(id, some[i]);
        }
    }
    u64 total;
    scan(w, sum, &total);
    // Sums of warps, by the last scan.
    u64 before = 0;
    int warp = 0;
    for (; warp < 31 && before + w->totals[warp] < target; warp++) before += w->totals[warp];

    const int first = warp * of_warp + thread_x() * ((of_warp + THREADS - 1) / THREADS), end = least(least(vocabulary, (warp + 1) * of_warp), first + (of_warp + THREADS - 1) / THREADS);
    sum = 0;
    for (int id = first; id < end; id++) sum += measure(id, weights[id]);
    u64 reached = before + scan(w, sum, &total);
    if (reached >= target && reached - sum < target)
    {
        reached -= sum;
        int id = first;
        while ((reached += measure(id, weights[id])) < target) id++;
        w->found = id;
    }
    sync_threads();
    const int found = w->found;
    sync_threads();
    return found;
}

// The token at whose place in the order of weights the running sum reaches the target, which the sum of all reaches.
template <bool Count> DEVICE int find_by_weight(Workspace* w, const float* weights, int vocabulary, const Kept& kept, u64 target)
{
    u32 prefix = 0;
    for (int shift = 20; shift >= 0; shift -= 10)
    {
        w->sums[thread_x()] = 0;
        sync_threads();
        for_each(weights, vocabulary, [=](int id, float weight)
        {
            const u32 bits = float_bits(weight);
            if (holds(kept, weight, id) && bits >> shift >> 10 == prefix) atomic_add(&w->sums[bits >> shift & 1023], Count ? 1 : units(weight));
        });
        sync_threads();
        const int bucket = 1023 - thread_x();
        const u64 sum = w->sums[bucket];
        u64 total;
        const u64 reached = scan(w, sum, &total);
        if (reached >= target && reached - sum < target)
        {
            w->found = bucket;
            w->rest = target - (reached - sum);
        }
        sync_threads();
        prefix = prefix << 10 | (u32)w->found;
        target = w->rest;
        sync_threads();
    }
    // What is left has one weight.
    const float weight = bits_float(prefix);
    return find_by_id(w, weights, vocabulary, target, [=](int id, float own) { return own == weight && holds(kept, weight, id) ? (Count ? 1 : units(weight)) : (u64)0; });
}

DEVICE u64 mix(u64 x)
{
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

// The share of a sum that is reached, at least one unit.
DEVICE u64 portion(double share, u64 total)
{
    const double exact = share * (double)total;
    u64 units = (u64)exact;
    if ((double)units < exact) units++;
    return units < 1 ? 1 : units > total ? total : units;
}

// Prepares the weights of a row and chooses its token.
DEVICE int choose(Workspace* w, const float* logits, int vocabulary, const int* undefined, int undefined_count, const Row& row, const int* history_ids, const int* history_counts,
    const int* bias_ids, const float* bias_values, const u64* allowed, float* weights)
{
    const int thread = thread_x();
    for_each(logits, vocabulary, [=](int id, float value) { weights[id] = value; });
    sync_threads();
    for (int i = 0; i < undefined_count; i++)
    {
        for (int id = undefined[2 * i] + thread; id < undefined[2 * i + 1]; id += THREADS) weights[id] = -infinity();
    }
    sync_threads();
    for (int i = row.history_begin + thread; i < row.history_end; i += THREADS)
    {
        float value = weights[history_ids[i]];
        if (row.repetition != 1) value = value < 0 ? value * row.repetition : value / row.repetition;
        if (history_counts[i] > 0) value -= (float)history_counts[i] * row.frequency + row.presence;
        weights[history_ids[i]] = value;
    }
    sync_threads();
    for (int i = row.bias_begin + thread; i < row.bias_end; i += THREADS) weights[bias_ids[i]] += bias_values[i];
    sync_threads();

    Best best = nobody(), first = nobody();
    for_each(weights, vocabulary, [&](int id, float value)
    {
        if (allowed && !(allowed[id / 64] >> id % 64 & 1))
        {
            weights[id] = -infinity();
            return;
        }
        if (value > best.value) best = {value, id};
        bool is_defined = allowed != nullptr;
        if (!allowed && first.id == 1 << 30)
        {
            is_defined = true;
            for (int i = 0; i < undefined_count; i++) is_defined &= id < undefined[2 * i] || id >= undefined[2 * i + 1];
        }
        if (is_defined && first.id == 1 << 30) first = {0, id};
    });
    best = block_best(w, best);
    if (best.id == 1 << 30)
    {
        // Nothing but NaN or -∞, of a broken model.
        first = block_best(w, first);
        return first.id == 1 << 30 ? 0 : first.id;
    }
    if (row.greedy || !is_finite(best.value)) return best.id;

    Kept kept = {row.min_p > 0 ? row.min_p : 1e-45f, -1, 0};
    u64 count = 0, sum = 0;
    for_each(weights, vocabulary, [&](int id, float value)
    {
        float weight = exponential((value - best.value) / row.temperature);
        if (weight != weight) weight = 0;
        weights[id] = weight;
        if (!holds(kept, weight, id)) return;
        count++;
        sum += units(weight);
    });
    count = block_sum(w, count);
    const bool is_cut = (row.top_k > 0 && (u64)row.top_k < count) || row.top_p < 1;
    if (row.top_k > 0 && (u64)row.top_k < count)
    {
        kept.last_id = find_by_weight<true>(w, weights, vocabulary, kept, (u64)row.top_k);
        kept.last = weights[kept.last_id];
        sum = 0;
        for_each(weights, vocabulary, [&](int id, float weight) { sum += holds(kept, weight, id) ? units(weight) : 0; });
    }
    sum = block_sum(w, sum);
    if (row.top_p < 1)
    {
        kept.last_id = find_by_weight<false>(w, weights, vocabulary, kept, portion(row.top_p, sum));
        kept.last = weights[kept.last_id];
        sum = 0;
        for_each(weights, vocabulary, [&](int id, float weight) { sum += holds(kept, weight, id) ? units(weight) : 0; });
        sum = block_sum(w, sum);
    }

    const double uniform = (double)(mix(mix(row.seed) + (u64)row.draw) >> 11) * (1.0 / 9007199254740992.0);
    // The first token at which the sum is above the draw, in the order that truncation uses, and by id where nothing was cut off.
    const u64 above = (u64)(uniform * (double)sum) + 1, target = above > sum ? sum : above;
    if (is_cut) return find_by_weight<false>(w, weights, vocabulary, kept, target);
    return find_by_id(w, weights, vocabulary, target, [=](int id, float weight) { return holds(kept, weight, id) ? units(weight) : (u64)0; });
}

// undefined [undefined_count, 2]: ranges of ids that are no tokens. allowed [masks, allowed_words]: a bit for each token, or null. scratch [sequences, vocabulary].
// tokens [sequences]; log_probabilities [sequences]: of the tokens; top_ids, top_log_probabilities [sequences, max_top]: the likeliest first. Sequences without a row are left alone.
// grid sequences; block 1024; shared 8720
KERNEL(1024) sample(const float* logits, int vocabulary, const int* undefined, int undefined_count, const Row* rows, const int* history_ids, const int* history_counts,
    const int* bias_ids, const float* bias_values, const u64* allowed, int allowed_words, float* scratch, int* tokens, float* log_probabilities, int* top_ids, float* top_log_probabilities, int max_top)
{
    await_previous();
    const Row row = rows[block_x()];
    if (row.logits_row < 0) return;
    Workspace* w = shared<Workspace>();
    logits += (s64)row.logits_row * vocabulary;
    const int token = choose(w, logits, vocabulary, undefined, undefined_count, row, history_ids, history_counts, bias_ids, bias_values,
        row.allowed >= 0 ? allowed + (s64)row.allowed * allowed_words : nullptr, scratch + (s64)block_x() * vocabulary);
    if (thread_x() == 0) tokens[block_x()] = token;
    if (row.top < 0) return;

    Best best = nobody();
    for_each(logits, vocabulary, [&](int id, float value)
    {
        if (value > best.value) best = {value, id};
    });
    best = block_best(w, best);
    u64 sum = 0;
    for_each(logits, vocabulary, [&](int, float value) { sum += units(exponential(value - best.value)); });
    sum = block_sum(w, sum);
    // ln of the sum of e^logit
    const float normaliser = best.value + binary_logarithm((float)((double)sum * (1.0 / 17592186044416.0))) * 0.693147181f;
    if (thread_x() == 0) log_probabilities[block_x()] = logits[token] - normaliser;
    for (int rank = 0; rank < least(row.top, max_top); rank++)
    {
        if (thread_x() == 0)
        {
            top_ids[block_x() * max_top + rank] = best.id;
            top_log_probabilities[block_x() * max_top + rank] = best.value - normaliser;
        }
        const Best before = best;
        Best next = nobody();
        for_each(logits, vocabulary, [&](int id, float value)
        {
            const Best candidate = {value, id};
            if (is_better(before, candidate) && is_better(candidate, next)) next = candidate;
        });
        best = block_best(w, next);
    }
}
