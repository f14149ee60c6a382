// Where the buckets of many hashes stand: the index alone, without the packs.
#include "store/store.h"

namespace {

constexpr int64_t kAhead = 16;  // look-ups between two steps of one: an index of many megabytes answers from memory

struct Place {
    const danlu_pack* pack;
    uint64_t bucket;
};

// First the mark and the low bits are fetched, then, when the mark is there, the high bits around it.
void fetch_mark(const Place& at) {
    __builtin_prefetch(at.pack->offsets.marks + at.bucket / kMarkEvery);
    __builtin_prefetch(at.pack->offsets.low + at.bucket * uint64_t(at.pack->offsets.shift) / 64);
}

void fetch_high(const Place& at) {
    __builtin_prefetch(at.pack->offsets.high + at.pack->offsets.marks[at.bucket / kMarkEvery] / 64 + 1);
}

}  // namespace

// For every hash: the pack of the merged ones that covers it, and where its bucket starts and stops there (both 0 in a pack that
// holds nothing).
DANLU_API int danlu_store_find(const danlu_table* table, const uint64_t* hashes, int64_t count, int32_t* packs,
                               uint64_t* starts, uint64_t* stops) {
    if (!table->merged) return DANLU_BAD_SIZE;
    Place ring[2 * kAhead];
    for (int64_t i = 0; i < count + 2 * kAhead; i++) {
        if (i >= 2 * kAhead) {
            const int64_t n = i - 2 * kAhead;
            const Place at = ring[n % (2 * kAhead)];
            starts[n] = stops[n] = 0;
            if (at.pack->buckets) offsets_pair(at.pack->offsets, at.bucket, starts + n, stops + n);
        }
        if (i >= kAhead && i < count + kAhead) {
            const Place& at = ring[(i - kAhead) % (2 * kAhead)];
            if (at.pack->buckets) fetch_high(at);
        }
        if (i < count) {
            const int64_t number = store_candidate(*table, table->young, hashes[i]);
            const danlu_pack& pack = table->packs[number];
            packs[i] = int32_t(number);
            Place& at = ring[i % (2 * kAhead)];
            at = {&pack, store_bucket(hashes[i], pack.bits, pack.buckets)};
            if (pack.buckets) fetch_mark(at);
        }
    }
    return DANLU_OK;
}

// Where the buckets `first` .. `last` - 1 of a pack start and the last of them stops: last - first + 1 numbers.
DANLU_API int danlu_store_between(const danlu_offsets* of, int64_t first, int64_t last, int64_t* out) {
    offsets_run(*of, uint64_t(first), uint64_t(last), out);
    return DANLU_OK;
}
