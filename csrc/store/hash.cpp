// 64-bit hashes of keys: BLAKE2b with an 8-byte digest read big-endian, one key at a time and four side by side.
#include <cstring>

#include "store/blake2b.h"
#include "store/store.h"

namespace {

#if defined(__x86_64__)
typedef uint64_t Four __attribute__((vector_size(32)));

// Four keys of at most one block. The lanes are filled through memory: keys begin anywhere and end anywhere.
__attribute__((target("avx2"), always_inline)) inline void four(const uint8_t* data, const int64_t* starts,
                                                                const int64_t* counts, uint64_t* out) {
    alignas(32) uint64_t words[16][4] = {};
    Four h[8], m[16], total;
    for (int lane = 0; lane < 4; lane++) {
        const int64_t begin = starts[lane], count = counts[lane];
        for (int64_t i = 0; i < count / 8; i++) std::memcpy(&words[i][lane], data + begin + 8 * i, 8);
        if (count % 8) std::memcpy(&words[count / 8][lane], data + begin + (count & -8), count % 8);
        total[lane] = count;
    }
    for (int i = 0; i < 8; i++) h[i] = Four{} + kBlakeStart[i];
    h[0] ^= kBlakeParameters;
    std::memcpy(m, words, sizeof m);
    blake_block(h, m, total, ~uint64_t(0));
    for (int lane = 0; lane < 4; lane++) out[lane] = __builtin_bswap64(h[0][lane]);
}

__attribute__((target("avx2"))) void many_avx2(const uint8_t* data, const int64_t* starts, const int64_t* counts,
                                               int64_t count, uint64_t* out) {
    for (int64_t i = 0; i < count;) {
        bool together = i + 4 <= count;
        for (int64_t k = 0; together && k < 4; k++) together = counts[i + k] <= kBlakeBlock;
        if (together) {
            four(data, starts + i, counts + i, out + i);
            i += 4;
        } else {
            out[i] = store_hash(data + starts[i], counts[i]);
            i++;
        }
    }
}
#endif

}  // namespace

uint64_t store_hash(const uint8_t* key, int64_t count) {
    uint64_t h[8];
    std::memcpy(h, kBlakeStart, sizeof h);
    h[0] ^= kBlakeParameters;
    for (int64_t at = 0;; at += kBlakeBlock) {
        const int64_t rest = count - at, here = rest < kBlakeBlock ? rest : kBlakeBlock;
        uint64_t m[16] = {};
        std::memcpy(m, key + at, here);
        blake_block(h, m, uint64_t(at + here), rest <= kBlakeBlock ? ~uint64_t(0) : 0);
        if (rest <= kBlakeBlock) return __builtin_bswap64(h[0]);
    }
}

// Hashes of `count` keys: key i has counts[i] bytes and begins at data[starts[i]].
DANLU_API int danlu_store_hash(const uint8_t* data, const int64_t* starts, const int64_t* counts, int64_t count,
                               uint64_t* out) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        many_avx2(data, starts, counts, count, out);
        return DANLU_OK;
    }
#endif
    for (int64_t i = 0; i < count; i++) out[i] = store_hash(data + starts[i], counts[i]);
    return DANLU_OK;
}
