// Any number of tokens in int16; the walk over panels is avx2_panel.h. On AVX2 this costs no more per product than
// int8, which pays for signs and widening.
//
// Two byte shuffles look up the low and the high byte of a level; interleaved they are words, 4 columns of one row in
// 64 bits, and the input comes as 4 columns in every 64 bits. A row's sum is split over two lanes until the block ends.
#include <cmath>

#include "q4/avx2_panel.h"

#if defined(__x86_64__)
namespace q4 {

namespace {

// 64 products of a row must stay below 2^31: 64 * 4095 * 8191 just does.
constexpr float kTopLevel = 4095, kTopInput = 8191;

struct Int16 {
    using Number = int16_t;
    static constexpr int64_t kPanel = kQ4Block / 2;
    static constexpr int64_t kTile = 6;    // tokens: 2 accumulators each, and 4 registers for weights and inputs
    static constexpr int64_t kChunk = 64;  // 8 KiB of inputs and 4 KiB of sums

    struct Tables {
        __m256i low, high;  // bytes of the 16-bit levels
    };

    AVX2 static inline Tables tables(const float* levels) {
        alignas(16) uint8_t low[16], high[16];
        for (int i = 0; i < 16; i++) {
            const auto level = uint16_t(int16_t(std::lrintf(levels[i] * kTopLevel)));
            low[i] = uint8_t(level & 255), high[i] = uint8_t(level >> 8);
        }
        return {_mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)low)),
                _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)high))};
    }

    // 8 rows of one block: panel[2 i] has rows 0 1 | 4 5, panel[2 i + 1] rows 2 3 | 6 7, each with columns 4 i up to
    // 4 i + 3.
    AVX2 static inline void unpack(const uint8_t* codes, const Tables& levels, __m256i* panel) {
        const __m256i nibble = _mm256_set1_epi8(15);
        for (int v = 0; v < 8; v++, codes += 64, panel += 4) {
            _mm_prefetch((const char*)codes + 2 * kQ4Bytes, _MM_HINT_T0);
            const __m256i bytes = _mm256_loadu_si256((const __m256i*)codes);
            const __m256i part[2] = {_mm256_and_si256(bytes, nibble),
                                     _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble)};
            for (int i = 0; i < 2; i++) {
                const __m256i low = _mm256_shuffle_epi8(levels.low, part[i]),
                              high = _mm256_shuffle_epi8(levels.high, part[i]);
                _mm256_store_si256(panel + 2 * i, _mm256_unpacklo_epi8(low, high));
                _mm256_store_si256(panel + 2 * i + 1, _mm256_unpackhi_epi8(low, high));
            }
        }
    }

    // Add one block of 8 rows times T tokens to total[t][16].
    template <int T>
    AVX2 static inline void tile(const __m256i* panel, const Ready<int16_t>& in, int64_t b, int64_t t, __m256 absmax,
                          float* total) {
        const int16_t* x = in.block(b, t);
        __m256i sum[T][2];
#pragma GCC unroll 6
        for (int i = 0; i < T; i++) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
        for (int k = 0; k < kQ4Block; k += 4, panel += 2, x += 4) {
            const __m256i first = _mm256_load_si256(panel), second = _mm256_load_si256(panel + 1);
#pragma GCC unroll 6
            for (int i = 0; i < T; i++) {
                const __m256i four = _mm256_castpd_si256(_mm256_broadcast_sd((const double*)(x + i * kQ4Block)));
                sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(first, four));
                sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(second, four));
                KEEP(sum[i][0]);
                KEEP(sum[i][1]);
            }
        }
#pragma GCC unroll 6
        for (int i = 0; i < T; i++) {
            const __m256 dot = _mm256_cvtepi32_ps(_mm256_hadd_epi32(sum[i][0], sum[i][1]));
            const __m256 unit = _mm256_mul_ps(absmax, _mm256_set1_ps(in.unit(b, t + i)));
            _mm256_store_ps(total + i * kQ4Rows, _mm256_fmadd_ps(dot, unit, _mm256_load_ps(total + i * kQ4Rows)));
        }
    }
};

}  // namespace

AVX2 void prepare_int16(const float* x, int64_t b, int64_t t, const Ready<int16_t>& ready) {
    const float most = largest(x);
    const __m256 unit = _mm256_set1_ps(most > 1e-30f ? kTopInput / most : 0);  // false for NaN
    for (int i = 0; i < kQ4Block; i += 16) {
        const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), unit));
        const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), unit));
        const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
        _mm256_storeu_si256((__m256i*)(ready.block(b, t) + i), both);
    }
    ready.unit(b, t) = most / kTopInput / kTopLevel;
}

AVX2 void multiply_int16(const Work& work) { multiply_panels<Int16>(work); }

}  // namespace q4
#endif
