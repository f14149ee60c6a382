// A few tokens in int8: 32 weights a shuffle, sign and maddubs, 16 rows at a time, nothing unpacked to memory.
//
// pmaddubsw wants one unsigned factor: it gets |x|, and the weight takes the sign of x. With both within 127 the pair
// sums stay below 32768, so nothing saturates.
#include "q4/avx2.h"

#if defined(__x86_64__)
#include <cmath>

namespace q4 {

namespace {

constexpr int64_t kAhead = 2048;  // bytes; the hardware's own prefetch stops at every page

AVX2 inline __m256i table(const float* levels) {
    alignas(16) int8_t level[16];
    for (int i = 0; i < 16; i++) level[i] = int8_t(std::lrintf(levels[i] * 127));
    return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)level));
}

AVX2 inline __m256i four(const int8_t* at) { return _mm256_set1_epi32(*(const int32_t*)at); }

AVX2 inline __m256i dot(__m256i weight, const int8_t* x) {
    const __m256i pairs = _mm256_maddubs_epi16(four(x + kQ4Block), _mm256_sign_epi8(weight, four(x)));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// One block of 16 rows times T tokens, whose x and |x| start at x, stride apart.
template <int T>
AVX2 inline void block(const uint8_t* codes, __m256i levels, const int8_t* x, int64_t stride, __m256i sum[T][2]) {
    const __m256i nibble = _mm256_set1_epi8(15);
    for (int t = 0; t < T; t++) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
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
                sum[t][half] = _mm256_add_epi32(sum[t][half], _mm256_add_epi32(dot(low, at), dot(high, at + 4)));
            }
        }
    }
}

template <int T>
AVX2 void few(const Work& work, const Ready<int8_t>& in, int64_t first) {
    const danlu_q4& w = *work.w;
    const int64_t blocks = q4_blocks(w.cols), stride = 2 * kQ4Block;
    const __m256i levels = table(w.levels);
    for (int64_t g = work.from; g < work.to; g++) {
        __m256 total[T][2];
        for (int t = 0; t < T; t++) total[t][0] = total[t][1] = _mm256_setzero_ps();
        for (int64_t from = 0; from < blocks; from += kQ4Span) {
            const int64_t count = blocks - from < kQ4Span ? blocks - from : kQ4Span;
            alignas(32) float scale[kQ4Span * kQ4Rows];
            absmax(w, g, from, count, scale);
            const uint8_t* codes = w.codes + (g * blocks + from) * kQ4Bytes;
            for (int64_t b = 0; b < count; b++, codes += kQ4Bytes) {
                __m256i sum[T][2];
                block<T>(codes, levels, in.block(from + b, first), stride, sum);
                for (int t = 0; t < T; t++)
                    for (int half = 0; half < 2; half++) {
                        const __m256 unit = _mm256_mul_ps(_mm256_load_ps(scale + b * kQ4Rows + 8 * half),
                                                          _mm256_set1_ps(in.unit(from + b, first + t)));
                        total[t][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t][half]), unit, total[t][half]);
                    }
            }
        }
        for (int t = 0; t < T; t++) store16(work, g, first + t, total[t][0], total[t][1]);
    }
}

}  // namespace

AVX2 void prepare_int8(const float* x, int64_t b, int64_t t, const Ready<int8_t>& ready) {
    const float most = largest(x);
    const float unit = most > 1e-30f ? 127 / most : 0;  // false for NaN
    int8_t* to = ready.block(b, t);
    for (int i = 0; i < kQ4Block; i++) {
        const auto value = int8_t(unit == 0 ? 0 : std::lrintf(x[i] * unit));
        to[i] = value, to[kQ4Block + i] = int8_t(value < 0 ? -value : value);
    }
    ready.unit(b, t) = most / 127 / 127;
}

void multiply_int8(const Work& work) {
    const Ready<int8_t> in(work.ready, work.tokens, work.w->cols, 2 * kQ4Block);
    constexpr decltype(&few<1>) kPass[kFew + 1] = {nullptr, few<1>, few<2>, few<3>, few<4>};
    for (int64_t t = 0; t < work.tokens; t += kFew) kPass[work.tokens - t < kFew ? work.tokens - t : kFew](work, in, t);
}

}  // namespace q4
#endif
