// The few AVX-512 instructions of this folder by name; built with DANLU_MODEL_AVX512 they are a plain model of what
// Intel's manual says each does, so that the kernels' arithmetic is tested on CPUs without them.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(DANLU_MODEL_AVX512)
#define AVX512
#else
#include <immintrin.h>
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni,avx2,fma")))
#endif

namespace q4 {

#if defined(DANLU_MODEL_AVX512)
struct Bytes {
    uint8_t at[64];
};
struct Ints {
    int32_t at[16];
};
struct Floats {
    float at[16];
};

inline Bytes load_bytes(const uint8_t* from) {
    Bytes made;
    std::memcpy(made.at, from, 64);
    return made;
}

inline void store_bytes(uint8_t* to, const Bytes& v) { std::memcpy(to, v.at, 64); }

inline Ints load_ints(const int32_t* from) {
    Ints made;
    std::memcpy(made.at, from, 64);
    return made;
}

// The same 4 bytes in every lane (vpbroadcastd).
inline Bytes four_bytes(const int8_t* from) {
    Bytes made;
    for (int i = 0; i < 64; i++) made.at[i] = uint8_t(from[i % 4]);
    return made;
}

// Four copies of a table of 16 (vbroadcasti32x4), so that bits 4 and 5 of an index do not matter.
inline Bytes four_tables(const uint8_t* table) {
    Bytes made;
    for (int i = 0; i < 64; i++) made.at[i] = table[i % 16];
    return made;
}

// vpermb: the low six bits of every index choose a byte.
inline Bytes look_up(const Bytes& table, const Bytes& index) {
    Bytes made;
    for (int i = 0; i < 64; i++) made.at[i] = table.at[index.at[i] & 63];
    return made;
}

// vpsrlw by 4: high nibbles come down; the bits above them are of the next byte.
inline Bytes high_nibbles(const Bytes& v) {
    Bytes made;
    for (int i = 0; i < 64; i += 2) {
        const int word = (v.at[i] | v.at[i + 1] << 8) >> 4;
        made.at[i] = uint8_t(word), made.at[i + 1] = uint8_t(word >> 8);
    }
    return made;
}

inline Ints no_ints() { return {}; }

// vpdpbusd: every lane gains four products of an unsigned and a signed byte, without saturating.
inline Ints dot(Ints sum, const Bytes& weight, const Bytes& x) {
    for (int i = 0; i < 64; i++) sum.at[i / 4] += int32_t(weight.at[i]) * int8_t(x.at[i]);
    return sum;
}

inline Ints add(Ints a, const Ints& b) {
    for (int i = 0; i < 16; i++) a.at[i] += b.at[i];
    return a;
}

inline Floats floats(const Ints& v) {
    Floats made;
    for (int i = 0; i < 16; i++) made.at[i] = float(v.at[i]);
    return made;
}

inline Floats load_floats(const float* from) {
    Floats made;
    std::memcpy(made.at, from, 64);
    return made;
}

inline Floats all(float value) {
    Floats made;
    for (float& each : made.at) each = value;
    return made;
}

inline Floats times(Floats a, const Floats& b) {
    for (int i = 0; i < 16; i++) a.at[i] *= b.at[i];
    return a;
}

inline Floats minus(Floats a, const Floats& b) {
    for (int i = 0; i < 16; i++) a.at[i] -= b.at[i];
    return a;
}

inline Floats times_plus(const Floats& a, const Floats& b, Floats c) {
    for (int i = 0; i < 16; i++) c.at[i] = __builtin_fmaf(a.at[i], b.at[i], c.at[i]);
    return c;
}

inline void store_floats(float* to, const Floats& v) { std::memcpy(to, v.at, 64); }
#else
using Bytes = __m512i;
using Ints = __m512i;
using Floats = __m512;

AVX512 inline Bytes load_bytes(const uint8_t* from) { return _mm512_loadu_si512(from); }
AVX512 inline void store_bytes(uint8_t* to, Bytes v) { _mm512_storeu_si512(to, v); }
AVX512 inline Ints load_ints(const int32_t* from) { return _mm512_loadu_si512(from); }
AVX512 inline Bytes four_bytes(const int8_t* from) {
    int32_t bytes;
    std::memcpy(&bytes, from, 4);
    return _mm512_set1_epi32(bytes);
}
AVX512 inline Bytes four_tables(const uint8_t* table) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table));
}
AVX512 inline Bytes look_up(Bytes table, Bytes index) { return _mm512_permutexvar_epi8(index, table); }
AVX512 inline Bytes high_nibbles(Bytes v) { return _mm512_srli_epi16(v, 4); }
AVX512 inline Ints no_ints() { return _mm512_setzero_si512(); }
AVX512 inline Ints dot(Ints sum, Bytes weight, Bytes x) { return _mm512_dpbusd_epi32(sum, weight, x); }
AVX512 inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
AVX512 inline Floats floats(Ints v) { return _mm512_cvtepi32_ps(v); }
AVX512 inline Floats load_floats(const float* from) { return _mm512_loadu_ps(from); }
AVX512 inline Floats all(float value) { return _mm512_set1_ps(value); }
AVX512 inline Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
AVX512 inline Floats minus(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
AVX512 inline Floats times_plus(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
AVX512 inline void store_floats(float* to, Floats v) { _mm512_storeu_ps(to, v); }
#endif

}  // namespace q4
