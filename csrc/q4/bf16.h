// bf16 as AVX-512 and AMX multiply it: levels and inputs rounded to 8 bits of mantissa, products and sums in fp32.
//
// A prepared input is [blocks][tokens][64] numbers. Of every 8 columns the order is 0 2 4 6 1 3 5 7: a word of codes has
// its nibbles' columns 0 4 1 5 (or 2 6 3 7), and each of them makes a pair with the same nibble of the next word.
#pragma once

#include <cstdint>
#include <cstring>

#include "q4/files.h"
#include "q4/lanes512.h"

#if defined(DANLU_MODEL_AVX512)
#define BF16
#else
#define BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx512bf16,avx2,fma")))
#endif

namespace q4 {

struct ReadyBf16 {
    uint16_t* numbers;
    int64_t tokens;

    ReadyBf16(const void* at, int64_t tokens)
        : numbers(static_cast<uint16_t*>(const_cast<void*>(at))), tokens(tokens) {}

    uint16_t* block(int64_t b, int64_t t) const { return numbers + (b * tokens + t) * kQ4Block; }
};

// To the nearest, halves to even; what is not a number stays none.
inline uint16_t to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 64;
    return uint16_t((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}

// The 16 levels twice, so that bit 4 of an index, which is of another nibble, does not matter.
struct Levels {
    alignas(64) uint16_t twice[32];

    explicit Levels(const float* levels) {
        for (int i = 0; i < 32; i++) twice[i] = to_bf16(levels[i % 16]);
    }
};

#if defined(DANLU_MODEL_AVX512)
// vpsrlw by N bits.
template <int N>
Bytes nibble(const Bytes& v) {
    Bytes made;
    for (int i = 0; i < 64; i += 2) {
        const int word = (v.at[i] | v.at[i + 1] << 8) >> N;
        made.at[i] = uint8_t(word), made.at[i + 1] = uint8_t(word >> 8);
    }
    return made;
}

// vpermw: the low five bits of every word choose a word.
inline Bytes look_up_words(const Bytes& table, const Bytes& index) {
    Bytes made;
    for (int i = 0; i < 64; i += 2) std::memcpy(made.at + i, table.at + 2 * (index.at[i] & 31), 2);
    return made;
}

inline float of_bf16(const uint8_t* at) {
    uint8_t wide[4] = {0, 0, at[0], at[1]};
    float value;
    std::memcpy(&value, wide, 4);
    return value;
}

// vdpbf16ps: every lane gains two products, the odd one first.
inline Floats dot_bf16(Floats sum, const Bytes& a, const Bytes& b) {
    for (int i = 0; i < 16; i++)
        for (int half = 2; half >= 0; half -= 2)
            sum.at[i] = __builtin_fmaf(of_bf16(a.at + 4 * i + half), of_bf16(b.at + 4 * i + half), sum.at[i]);
    return sum;
}
#else
template <int N>
AVX512 inline Bytes nibble(Bytes v) {
    return _mm512_srli_epi16(v, N);
}
AVX512 inline Bytes look_up_words(Bytes table, Bytes index) { return _mm512_permutexvar_epi16(index, table); }
BF16 inline Floats dot_bf16(Floats sum, Bytes a, Bytes b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
#endif

}  // namespace q4
