// Eight floats at a time: reading any element type, sums, exp.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "engine/run.h"

AVX2 inline __m256 load8(const float* p) { return _mm256_loadu_ps(p); }

// bf16 and fp16 are told apart by type: a struct each around the same two bytes.
struct Bf16 {
    uint16_t bits;
};
struct Fp16 {
    uint16_t bits;
};

// Of a head's keys or values in 8 bits: so many of these, then in bf16 what one unit is worth.
struct Int8 {
    int8_t value;
};

AVX2 inline __m256 load8(const Int8* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}
AVX2 inline __m256 load8(const Bf16* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
AVX2 inline __m256 load8(const Fp16* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }

AVX2 inline float load1(const float* p) { return *p; }
AVX2 inline float load1(const Int8* p) { return p->value; }
AVX2 inline float load1(const Bf16* p) {
    const uint32_t bits = uint32_t(p->bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
AVX2 inline float load1(const Fp16* p) { return _cvtsh_ss(p->bits); }

// Round to nearest even; what is not a number stays one.
AVX2 inline void store1(float* p, float x) { *p = x; }
AVX2 inline void store1(Bf16* p, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    p->bits = x != x ? uint16_t(bits >> 16 | 64) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
AVX2 inline void store1(Fp16* p, float x) { p->bits = uint16_t(_cvtss_sh(x, 0)); }

// Numbers that one head of `size` takes in a page, and what one unit of them is worth.
template <class T>
inline int64_t head_items(int64_t size) {
    return size;
}
template <>
inline int64_t head_items<Int8>(int64_t size) {
    return size + int64_t(sizeof(Bf16));
}
template <class T>
AVX2 inline float unit_of(const T*, int64_t) {
    return 1.0f;
}
AVX2 inline float unit_of(const Int8* head, int64_t size) {
    Bf16 unit;
    std::memcpy(&unit, head + size, sizeof unit);
    return load1(&unit);
}

AVX2 inline float sum8(__m256 v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

AVX2 inline float max8(__m256 v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

// e^x with an error below 2 units in the last place (range reduction by log 2 in two parts, degree 6 after Cephes' expf);
// 0 below -87.3, 1.6e38 above 88, NaN stays NaN.
AVX2 inline __m256 exp8(__m256 x) {
    const __m256 low = _mm256_set1_ps(-87.33654f), high = _mm256_set1_ps(88.0f);
    const __m256 keep = _mm256_cmp_ps(x, low, _CMP_NLT_UQ);
    x = _mm256_max_ps(low, _mm256_min_ps(high, x));  // this order of operands lets NaN through
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 y = _mm256_set1_ps(1.9875691500e-4f);
    const float rest[5] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    for (float c : rest)
        y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(c));
    y = _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(y, r), r, r), _mm256_set1_ps(1.0f));
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_and_ps(keep, _mm256_mul_ps(y, _mm256_castsi256_ps(power)));
}
#endif
