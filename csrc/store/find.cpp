// Where the buckets of many hashes stand: the index alone, without the packs.
#include "store/store.h"

namespace {

constexpr int64_t kAhead = 16;  // look-ups under way at once: an index of many megabytes answers from memory, not the cache

template <class Offset>
void find(const danlu_pack& pack, const uint64_t* hashes, int64_t count, uint64_t* starts, uint64_t* stops) {
    const auto* index = static_cast<const Offset*>(pack.index);
    uint64_t ring[kAhead];
    for (int64_t i = 0; i < count + kAhead; i++) {
        if (i >= kAhead) {
            const uint64_t b = ring[i % kAhead];
            starts[i - kAhead] = index[b];
            stops[i - kAhead] = index[b + 1];
        }
        if (i < count) {
            ring[i % kAhead] = store_bucket(hashes[i], pack.bits, pack.buckets);
            __builtin_prefetch(index + ring[i % kAhead]);
        }
    }
}

}  // namespace

DANLU_API int danlu_store_find(const danlu_pack* pack, const uint64_t* hashes, int64_t count, uint64_t* starts,
                               uint64_t* stops) {
    if (pack->buckets < 1) return DANLU_BAD_SIZE;
    (pack->wide ? find<uint64_t> : find<uint32_t>)(*pack, hashes, count, starts, stops);
    return DANLU_OK;
}
