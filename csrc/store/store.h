// The bytes of packs: hashes of keys, checksums, buckets. The layout is `pack` in docs/formats.md; the plain versions are
// src/danlu/store/batch.py and hashing.py, and every result equals theirs.
#pragma once

#include <cstdint>

#include "core/status.h"
#include "store/offsets.h"

constexpr int64_t kHead = 16;        // of a record in its bucket: hash u64, key bytes u32, value bytes u32
constexpr int64_t kBucketHead = 8;   // CRC-32 of the rest of the bucket, then its number of records
constexpr int64_t kPage = 4096;      // what direct reads are whole ones of
constexpr uint32_t kRemoved = 0xFFFFFFFF;  // value bytes of a record that says "this key is gone"

// What a look-up found; where[] is explained at danlu_store_get.
enum danlu_found : int { ABSENT = 0, FOUND = 1, REMOVED = 2, SMALL = -1, DAMAGED = -2, UNREADABLE = -3 };

struct danlu_pack {
    danlu_offsets offsets;  // where buckets begin in the file, and where the last ends
    int64_t buckets;        // 0: there is nothing in it
    uint64_t* seen;         // a bit for each bucket: it was read already; null where direct is -1
    int32_t bits, fd;       // bits: how many first ones all its hashes share
    int32_t direct;         // another descriptor of the file, for reads past the page cache; -1 where there is none
    uint64_t prefix;        // what those are
};

// The packs of a store: the young ones, newest first, then (where merged is 1) one for each value of the first `bits` bits.
struct danlu_table {
    const danlu_pack* packs;
    int64_t young, count;  // count: of all packs
    int64_t left, memory;  // bytes still to be read before `seen` begins anew, and of memory
    int32_t bits, merged;
};

// Bytes of a file.
struct Span {
    uint64_t start, stop;
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
// How many packs may hold a hash, and the i-th of them, the newest first.
inline int64_t store_candidates(const danlu_table& table) { return table.young + table.merged; }
inline int64_t store_candidate(const danlu_table& table, int64_t i, uint64_t hash) {
    return i < table.young || !table.bits ? i : table.young + int64_t(hash >> (64 - table.bits));
}
// Whether a key of this hash would be in the pack.
inline bool store_covers(const danlu_pack& pack, uint64_t hash) {
    return pack.buckets && (!pack.bits || hash >> (64 - pack.bits) == pack.prefix);
}

uint64_t store_hash(const uint8_t* key, int64_t count);
uint32_t store_crc(const uint8_t* data, int64_t count);
// The bytes of a bucket, somewhere in out, which begins a page and has room for two pages more; null where they cannot be read.
const uint8_t* store_read(danlu_table& table, const danlu_pack& pack, uint64_t bucket, Span span, uint8_t* out);
