// BLAKE2b (RFC 7693) of a whole key in one call, with a digest of 8 bytes. The state is of type T: one number, or a vector
// of four when four keys of at most one block are hashed side by side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

constexpr int64_t kBlakeBlock = 128;
constexpr uint64_t kBlakeStart[8] = {0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
                                     0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179};
constexpr uint64_t kBlakeParameters = 0x01010000 ^ 8;  // depth 1, fan-out 1, no key, 8 bytes of digest
constexpr uint8_t kBlakeOrder[12][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3}};

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define BLAKE_SHUFFLES
#endif
#endif

// Turns by whole bytes of a vector are one shuffle: compilers make two shifts and an or of the plain form.
#if defined(BLAKE_SHUFFLES)
template <int Bits, class T, size_t... I>
__attribute__((always_inline)) inline void blake_shuffle(T& x, std::index_sequence<I...>) {
    typedef uint8_t Bytes __attribute__((vector_size(32)));
    x = T(__builtin_shufflevector(Bytes(x), Bytes(x), ((I & ~size_t(7)) + (I + Bits / 8) % 8)...));
}
#endif

template <int Bits, class T>
__attribute__((always_inline)) inline void blake_turn(T& x) {
#if defined(BLAKE_SHUFFLES)
    if constexpr (sizeof(T) == 32 && Bits % 8 == 0) {
        blake_shuffle<Bits>(x, std::make_index_sequence<32>());
        return;
    }
#endif
    if constexpr (Bits == 63)
        x = (x + x) | (x >> 63);
    else
        x = (x >> Bits) | (x << (64 - Bits));
}

template <class T>
__attribute__((always_inline)) inline void blake_mix(T& a, T& b, T& c, T& d, const T& x, const T& y) {
    a += b + x, d ^= a, blake_turn<32>(d);
    c += d, b ^= c, blake_turn<24>(b);
    a += b + y, d ^= a, blake_turn<16>(d);
    c += d, b ^= c, blake_turn<63>(b);
}

// h: the state, changed; m: 16 words of the block; total: bytes up to its end; last: all ones in the final block.
template <class T>
__attribute__((always_inline)) inline void blake_block(T* h, const T* m, const T& total, uint64_t last) {
    T v[16];
    for (int i = 0; i < 8; i++) v[i] = h[i], v[i + 8] = h[i] - h[i] + kBlakeStart[i];
    v[12] ^= total;
    v[14] ^= last;
#pragma GCC unroll 12
    for (int round = 0; round < 12; round++) {
        const uint8_t* s = kBlakeOrder[round];
        for (int i = 0; i < 4; i++) blake_mix(v[i], v[4 + i], v[8 + i], v[12 + i], m[s[2 * i]], m[s[2 * i + 1]]);
        for (int i = 0; i < 4; i++)
            blake_mix(v[i], v[4 + (i + 1) % 4], v[8 + (i + 2) % 4], v[12 + (i + 3) % 4], m[s[8 + 2 * i]], m[s[9 + 2 * i]]);
    }
    for (int i = 0; i < 8; i++) h[i] ^= v[i] ^ v[i + 8];
}
