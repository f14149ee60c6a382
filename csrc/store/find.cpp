// Where the buckets of many hashes stand: the index alone, without the packs.
#include "store/store.h"

namespace {

constexpr int64_t kAhead = 16;  // look-ups under way at once: an index of many megabytes answers from memory, not the cache

struct Place {
    const danlu_pack* pack;
    uint64_t bucket;
};

}  // namespace

// For every hash: the pack of the merged ones that covers it, and where its bucket starts and stops there (both 0 in a pack that
// holds nothing).
DANLU_API int danlu_store_find(const danlu_table* table, const uint64_t* hashes, int64_t count, int32_t* packs,
                               uint64_t* starts, uint64_t* stops) {
    if (!table->merged) return DANLU_BAD_SIZE;
    Place ring[kAhead];
    for (int64_t i = 0; i < count + kAhead; i++) {
        if (i >= kAhead) {
            const Place at = ring[i % kAhead];
            starts[i - kAhead] = at.pack->buckets ? store_offset(at.pack->index, at.pack->wide, at.bucket) : 0;
            stops[i - kAhead] = at.pack->buckets ? store_offset(at.pack->index, at.pack->wide, at.bucket + 1) : 0;
        }
        if (i < count) {
            const int64_t number = store_candidate(*table, table->young, hashes[i]);
            const danlu_pack& pack = table->packs[number];
            const uint64_t bucket = store_bucket(hashes[i], pack.bits, pack.buckets);
            packs[i] = int32_t(number);
            ring[i % kAhead] = {&pack, bucket};
            __builtin_prefetch(static_cast<const char*>(pack.index) + bucket * (pack.wide ? 8 : 4));
        }
    }
    return DANLU_OK;
}
