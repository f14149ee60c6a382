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

// Groups of rows that one token walks at once, each a stream of its own: with one the memory waits for the next line,
// as it does when it is only read. 19.1 GB/s with one, 23.5 with two, 22.4 with four (one thread of a shared Zen 3, large
// pages, medians of one run; docs/kernels.md). Several tokens multiply for longer than they wait.
constexpr int kStreams = 2;

// Bytes to fetch ahead, over all streams; the hardware's own prefetch does not keep up with this loop. 24.8 GB/s
// without, 26.4 at 4096, 26.8 at 6144, 26.7 at 8192; fetching every second line only 13 beside 22.
constexpr int64_t kAhead = 6144;

AVX2 inline __m256i four(const int8_t* at) {
    int32_t bytes;
    __builtin_memcpy(&bytes, at, 4);
    return _mm256_set1_epi32(bytes);
}

// One block of S groups of rows, group_bytes apart, times T tokens.
template <int T, int S>
AVX2 inline void block(const uint8_t* codes, int64_t group_bytes, const uint8_t* ahead, __m256i levels, const int8_t* x,
                       __m256i sum[S][T][2]) {
    const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int v = 0; v < 8; v++, x += 8) {
#pragma GCC unroll 4
        for (int s = 0; s < S; s++) {
            FETCH(ahead + s * group_bytes + 64 * v);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const auto* at32 = (const __m256i*)(codes + s * group_bytes + 64 * v + 32 * half);
                const __m256i bytes = _mm256_loadu_si256(at32);
                const __m256i low = _mm256_shuffle_epi8(levels, _mm256_and_si256(bytes, nibble));
                const __m256i high = _mm256_shuffle_epi8(levels, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble));
#pragma GCC unroll 4
                for (int t = 0; t < T; t++) {
                    const int8_t* at = x + t * kQ4Block;
                    const __m256i pairs =
                        _mm256_add_epi16(_mm256_maddubs_epi16(low, four(at)), _mm256_maddubs_epi16(high, four(at + 4)));
                    sum[s][t][half] = _mm256_add_epi32(sum[s][t][half], _mm256_madd_epi16(pairs, ones));
                    KEEP(sum[s][t][half]);
                }
            }
        }
    }
}

// absmax of 8 rows of a block. With a map they come from a span unpacked beforehand; else they are unpacked here, with
// one rounding less than in absmax.cpp.
struct Absmax {
    const uint8_t* code;
    const float* scale;  // step, low
    int64_t shift;
    const float* unpacked;
};

template <bool Mapped>
AVX2 inline __m256 absmax8(const Absmax& from, int64_t b, int half) {
    if (Mapped) return _mm256_load_ps(from.unpacked + b % kQ4Span * kQ4Rows + 8 * half);
    const __m128i codes = _mm_loadl_epi64((const __m128i*)(from.code + b * kQ4Rows + 8 * half));
    const float* scale = from.scale + (from.shift + b) / kQ4Span * 2;
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes)), _mm256_broadcast_ss(scale),
                           _mm256_broadcast_ss(scale + 1));
}

// S groups of rows times T tokens. The zero of the codes takes its share off before the first product, in integers.
template <int T, int S, bool Mapped>
AVX2 void groups(const Work& work, const Fitted& fitted, const Ready8& in, int64_t g) {
    const danlu_q4& w = *work.w;
    const int64_t blocks = q4_blocks(w.cols), bytes = blocks * kQ4Bytes;
    const __m256i levels = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)fitted.code));
    const uint8_t *codes = w.codes + g * bytes, *next_absmax = w.absmax + (g + S) * blocks * kQ4Rows;
    alignas(32) float unpacked[Mapped ? S : 1][kQ4Span * kQ4Rows];
    __m256 total[S][T][2];
    for (int s = 0; s < S; s++)
        for (int t = 0; t < T; t++) total[s][t][0] = total[s][t][1] = _mm256_setzero_ps();
    for (int64_t b = 0; b < blocks; b++, codes += kQ4Bytes) {
        if (Mapped && b % kQ4Span == 0)
            for (int s = 0; s < S; s++) absmax(w, g + s, b, blocks - b < kQ4Span ? blocks - b : kQ4Span, unpacked[s]);
        // The end of a group is followed by the S - 1 others that are walked with it.
        const bool ends = b * kQ4Bytes + kAhead / S >= bytes;
        FETCH(next_absmax + b * kQ4Rows * S);
        __m256i sum[S][T][2];
        for (int t = 0; t < T; t++) {
            const __m256i start = _mm256_cvtps_epi32(_mm256_set1_ps(-fitted.zero * in.unit(b, t).sum));
            for (int s = 0; s < S; s++) sum[s][t][0] = sum[s][t][1] = start;
        }
        const uint8_t* ahead = codes + kAhead / S + (ends ? (S - 1) * bytes : 0);
        block<T, S>(codes, bytes, ahead, levels, in.block(b, 0), sum);
#pragma GCC unroll 4
        for (int s = 0; s < S; s++) {
            const Absmax from{w.absmax + (g + s) * blocks * kQ4Rows, w.scale + (g + s) * q4_spans(w) * 2, w.shift,
                              unpacked[Mapped ? s : 0]};
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const __m256 scale = absmax8<Mapped>(from, b, half);
#pragma GCC unroll 4
                for (int t = 0; t < T; t++) {
                    const __m256 dot =
                        _mm256_mul_ps(_mm256_cvtepi32_ps(sum[s][t][half]), _mm256_set1_ps(in.unit(b, t).step));
                    total[s][t][half] = _mm256_fmadd_ps(dot, scale, total[s][t][half]);
                }
            }
        }
    }
    const __m256 unit = _mm256_set1_ps(1 / fitted.scale);
    for (int s = 0; s < S; s++)
        for (int t = 0; t < T; t++)
            store16(work, g + s, t, _mm256_mul_ps(total[s][t][0], unit), _mm256_mul_ps(total[s][t][1], unit));
}

template <int T, bool Mapped>
AVX2 void few(const Work& work, const Ready8& in) {
    constexpr int kAtOnce = T == 1 ? kStreams : 1;
    const Fitted& fitted = fit(work.w->levels, kTop);
    int64_t g = work.from;
    for (; g + kAtOnce <= work.to; g += kAtOnce) groups<T, kAtOnce, Mapped>(work, fitted, in, g);
    for (; g < work.to; g++) groups<T, 1, Mapped>(work, fitted, in, g);
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
    constexpr decltype(&few<1, true>) kPass[2][kFew + 1] = {
        {nullptr, few<1, false>, few<2, false>, few<3, false>, few<4, false>},
        {nullptr, few<1, true>, few<2, true>, few<3, true>, few<4, true>}};
    kPass[work.w->map != nullptr][work.tokens](work, in);
}

}  // namespace q4
#endif
