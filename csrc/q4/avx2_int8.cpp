// A few tokens in int8, 32 weights a shuffle and a maddubs, nothing unpacked to memory; panels for more are in
// avx2_tile8.cpp.
//
// Levels become 7-bit unsigned integers (fit.h), whose common zero leaves through the sum of the inputs, known
// beforehand. The inputs are signed bytes of which any four that meet in a 16-bit lane have magnitudes that sum to 256
// at most: 4 products then stay below 2^15 without saturating, and are widened once. That limit only binds for blocks
// whose largest input is less than about twice their mean magnitude, which have precision to spare.
#include "q4/avx2_int8.h"

#if defined(__x86_64__)
#include <cmath>

namespace q4 {

namespace {

// Bytes to fetch ahead. The hardware's own prefetch stops at every page and does not keep up with this loop: 16 GB/s
// without, 18 at 512, 23.5 at 2048, 25 at 4096 and at 8192, where a plain read gives 26.5 (one Zen 3 core, large
// pages).
constexpr int64_t kAhead = 4096;

AVX2 inline __m256i four(const int8_t* at) {
    int32_t bytes;
    __builtin_memcpy(&bytes, at, 4);
    return _mm256_set1_epi32(bytes);
}

// One block of 16 rows times T tokens, stride bytes apart.
template <int T>
AVX2 inline void block(const uint8_t* codes, __m256i levels, const int8_t* x, int64_t stride, __m256i sum[T][2]) {
    const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 4
    for (int t = 0; t < T; t++) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 2
    for (int v = 0; v < 8; v++, codes += 64, x += 8) {
        _mm_prefetch((const char*)codes + kAhead, _MM_HINT_T0);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const __m256i bytes = _mm256_loadu_si256((const __m256i*)(codes + 32 * half));
            const __m256i low = _mm256_shuffle_epi8(levels, _mm256_and_si256(bytes, nibble));
            const __m256i high = _mm256_shuffle_epi8(levels, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble));
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) {
                const int8_t* at = x + t * stride;
                const __m256i pairs =
                    _mm256_add_epi16(_mm256_maddubs_epi16(low, four(at)), _mm256_maddubs_epi16(high, four(at + 4)));
                sum[t][half] = _mm256_add_epi32(sum[t][half], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
}

// One group of rows times T tokens.
template <int T>
AVX2 void group(const Work& work, const Fitted& fitted, const Ready8& in, int64_t g) {
    const danlu_q4& w = *work.w;
    const int64_t blocks = q4_blocks(w.cols);
    const __m256i levels = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)fitted.code));
    const uint8_t* codes = w.codes + g * blocks * kQ4Bytes;
    alignas(32) float scale[kQ4Span * kQ4Rows];
    __m256 total[T][2];
    for (int t = 0; t < T; t++) total[t][0] = total[t][1] = _mm256_setzero_ps();
    for (int64_t b = 0; b < blocks; b++, codes += kQ4Bytes) {
        if (b % kQ4Span == 0) absmax(w, g, b, blocks - b < kQ4Span ? blocks - b : kQ4Span, scale);
        __m256i sum[T][2];
        block<T>(codes, levels, in.block(b, 0), kQ4Block, sum);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) {
            const Unit unit = in.unit(b, t);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++)
                total[t][half] = add_block(total[t][half], sum[t][half],
                                           _mm256_load_ps(scale + b % kQ4Span * kQ4Rows + 8 * half), unit, fitted.zero);
        }
    }
    const __m256 unit = _mm256_set1_ps(1 / fitted.scale);
    for (int t = 0; t < T; t++) store16(work, g, t, _mm256_mul_ps(total[t][0], unit), _mm256_mul_ps(total[t][1], unit));
}

template <int T>
AVX2 void few(const Work& work, const Ready8& in) {
    const Fitted& fitted = fit(work.w->levels, kTop);
    for (int64_t g = work.from; g < work.to; g++) group<T>(work, fitted, in, g);
}

// The largest sum of four magnitudes that meet in one lane: columns 8 v + 2 j, 8 v + 2 j + 1, and those four further
// on.
AVX2 float largest_four(const float* x) {
    const __m256 positive = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m128 most = _mm_setzero_ps();
    for (int v = 0; v < kQ4Block; v += 8) {
        const __m256 size = _mm256_and_ps(_mm256_loadu_ps(x + v), positive);
        const __m128 two = _mm_add_ps(_mm256_castps256_ps128(size), _mm256_extractf128_ps(size, 1));
        most = _mm_max_ps(most, _mm_add_ps(two, _mm_movehdup_ps(two)));  // lanes 0 and 2 hold sums of four
    }
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehl_ps(most, most)));
}

}  // namespace

AVX2 void prepare_int8(const float* x, int64_t b, int64_t t, const Ready8& ready, float top_four) {
    const float most = largest(x);
    // Rounding may add a half to each of the four.
    const float units = std::fmin(kTopInput / most, (top_four - 2) / largest_four(x));
    const __m256 unit = _mm256_set1_ps(most > 1e-30f ? units : 0);  // false for NaN
    __m256i sum = _mm256_setzero_si256();
    for (int i = 0; i < kQ4Block; i += 16) {
        const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), unit));
        const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), unit));
        sum = _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
        const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i*)(ready.block(b, t) + i), bytes);
    }
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
    ready.unit(b, t) = {most > 1e-30f ? 1 / units : most * 0, float(_mm_cvtsi128_si32(four))};
}

void multiply_int8(const Work& work) {
    const Ready8 in(work.ready, work.tokens, work.w->cols);
    if (work.tokens > kFew) return multiply_tiles8(work, in);
    constexpr decltype(&few<1>) kPass[kFew + 1] = {nullptr, few<1>, few<2>, few<3>, few<4>};
    kPass[work.tokens](work, in);
}

}  // namespace q4
#endif
