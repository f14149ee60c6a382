// The bytes of packs: hashes of keys, checksums, buckets. The layout is `pack` in docs/formats.md; the plain versions are
// src/danlu/store/batch.py and hashing.py, and every result equals theirs.
#pragma once

#include <cstdint>

#include "core/status.h"

constexpr int64_t kHead = 16;        // of a record in its bucket: hash u64, key bytes u32, value bytes u32
constexpr int64_t kBucketHead = 8;   // CRC-32 of the rest of the bucket, then its number of records
constexpr uint32_t kRemoved = 0xFFFFFFFF;  // value bytes of a record that says "this key is gone"

// What a look-up found; where[] is explained at danlu_store_get.
enum danlu_found : int { ABSENT = 0, FOUND = 1, REMOVED = 2, SMALL = -1, DAMAGED = -2, UNREADABLE = -3 };

struct danlu_pack {
    const void* index;  // buckets + 1 offsets in the file, u32 or u64
    int64_t buckets;
    uint64_t prefix;    // of the hashes in this pack: their first `bits` bits
    int32_t bits, wide; // wide: the offsets are u64
    int32_t fd, unused;
};

// Records as arrays over one buffer.
struct danlu_batch {
    const uint8_t* data;
    int64_t data_count;
    uint64_t* hash;
    int64_t* key_at;
    uint32_t* key_count;
    int64_t* value_at;
    uint32_t* value_count;
    int64_t count;  // records, or room for them
};

inline uint64_t store_bucket(uint64_t hash, int bits, int64_t buckets) {
    return uint64_t((unsigned __int128)(hash << bits) * uint64_t(buckets) >> 64);
}
inline uint64_t store_offset(const void* index, bool wide, uint64_t i) {
    return wide ? static_cast<const uint64_t*>(index)[i] : static_cast<const uint32_t*>(index)[i];
}
inline bool store_covers(const danlu_pack& pack, uint64_t hash) {
    return !pack.bits || hash >> (64 - pack.bits) == pack.prefix;
}

uint64_t store_hash(const uint8_t* key, int64_t count);
uint32_t store_crc(const uint8_t* data, int64_t count);
