// One record of one key: hash, bucket, one read, checksum, comparison.
#include <cstring>

#include <fcntl.h>

#include "store/store.h"

namespace {

// Look for a key in one bucket of `count` bytes. where[0], where[1]: the value's place in the bucket and its bytes.
int look(const uint8_t* bucket, int64_t count, uint64_t hash, const uint8_t* key, int64_t key_count, int64_t* where) {
    uint32_t crc, records;
    if (count < kBucketHead) return count ? DAMAGED : ABSENT;
    std::memcpy(&crc, bucket, 4);
    std::memcpy(&records, bucket + 4, 4);
    if (store_crc(bucket + 4, count - 4) != crc || kBucketHead + int64_t(records) * kHead > count) return DAMAGED;
    int64_t at = kBucketHead + int64_t(records) * kHead;
    for (const uint8_t* head = bucket + kBucketHead; records; records--, head += kHead) {
        uint64_t of;
        uint32_t keys, values;
        std::memcpy(&of, head, 8);
        std::memcpy(&keys, head + 8, 4);
        std::memcpy(&values, head + 12, 4);
        const int64_t size = values == kRemoved ? 0 : values;
        if (at + keys + size > count) return DAMAGED;
        if (of == hash && keys == uint64_t(key_count) && !std::memcmp(bucket + at, key, keys)) {
            where[0] = at + keys;
            where[1] = size;
            return values == kRemoved ? REMOVED : FOUND;
        }
        at += keys + size;
    }
    return ABSENT;
}

}  // namespace

// Look for a key in the packs of a store; its bucket is read into out, which begins a page. where[0], where[1]: place and bytes of the value in out;
// where[2]: the pack it is of, set also when that pack is DAMAGED or UNREADABLE. SMALL: where[0] bytes of room are needed.
DANLU_API int danlu_store_get(danlu_table* table, const uint8_t* key, int64_t key_count, uint8_t* out, int64_t room,
                              int64_t* where) {
    const uint64_t hash = store_hash(key, key_count);
    for (int64_t i = 0; i < store_candidates(*table); i++) {
        where[2] = store_candidate(*table, i, hash);
        const danlu_pack& pack = table->packs[where[2]];
        if (!store_covers(pack, hash)) continue;
        const uint64_t number = store_bucket(hash, pack.bits, pack.buckets);
        Span span;
        offsets_pair(pack.offsets, number, &span.start, &span.stop);
        if (span.stop < span.start) return DAMAGED;
        if (span.stop == span.start) continue;
        const int64_t count = int64_t(span.stop - span.start);
        if (count + 2 * kPage > room) {
            where[0] = count + 2 * kPage;
            return SMALL;
        }
        const uint8_t* bucket = store_read(*table, pack, number, span, out);
        if (!bucket) return UNREADABLE;
        const int found = look(bucket, count, hash, key, key_count, where);
        where[0] += bucket - out;
        if (found != ABSENT) return found;
    }
    return ABSENT;
}

// Ask the kernel for the buckets of many hashes at once, so that the device works on all of them together.
DANLU_API int danlu_store_want(const danlu_table* table, const uint64_t* hashes, int64_t wanted) {
    for (int64_t k = 0; k < wanted; k++)
        for (int64_t i = 0; i < store_candidates(*table); i++) {
            const danlu_pack& pack = table->packs[store_candidate(*table, i, hashes[k])];
            if (!store_covers(pack, hashes[k])) continue;
            Span span;
            offsets_pair(pack.offsets, store_bucket(hashes[k], pack.bits, pack.buckets), &span.start, &span.stop);
            if (span.stop > span.start)
                posix_fadvise(pack.fd, off_t(span.start), off_t(span.stop - span.start), POSIX_FADV_WILLNEED);
        }
    return DANLU_OK;
}
