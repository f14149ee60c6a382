// Many tokens in int8: the weights of 16 rows and 64 columns are unpacked into a panel in the first-level cache, over
// which tiles of 4 tokens pass. Numbers and limits are those of avx2_int8.cpp.
#include <algorithm>

#include "q4/avx2_int8.h"

#if defined(__x86_64__)
namespace q4 {

namespace {

constexpr int64_t kTile = 4;    // tokens: 2 accumulators each, and 8 registers for weights, inputs and products
constexpr int64_t kChunk = 64;  // tokens whose block of inputs (4 KiB) and sums (4 KiB) stay in the first-level cache

AVX2 inline __m256i four(const int8_t* at) {
    int32_t bytes;
    __builtin_memcpy(&bytes, at, 4);
    return _mm256_set1_epi32(bytes);
}

// One block: for every 8 columns the low four of rows 0 .. 7, their high four, then both of rows 8 .. 15.
AVX2 inline void unpack(const uint8_t* codes, __m256i levels, __m256i* panel) {
    const __m256i nibble = _mm256_set1_epi8(15);
    for (int i = 0; i < 16; i++, codes += 32, panel += 2) {
        const __m256i bytes = _mm256_loadu_si256((const __m256i*)codes);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
        _mm256_store_si256(panel, _mm256_shuffle_epi8(levels, _mm256_and_si256(bytes, nibble)));
        _mm256_store_si256(panel + 1, _mm256_shuffle_epi8(levels, high));
    }
}

struct Block {
    const __m256i* panel;
    const float* absmax;  // 16
    float zero;
    int64_t b;
};

// Add one block of 16 rows times T tokens to total[t][16].
template <int T>
AVX2 void tile(const Block& block, const Ready8& in, int64_t t, float* total) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i* panel = block.panel;
    const int8_t* x = in.block(block.b, t);
    __m256i sum[T][2];
#pragma GCC unroll 4
    for (int i = 0; i < T; i++) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
    for (int k = 0; k < kQ4Block; k += 8, panel += 4, x += 8) {
        const __m256i w0 = _mm256_load_si256(panel), w1 = _mm256_load_si256(panel + 1);
        const __m256i w2 = _mm256_load_si256(panel + 2), w3 = _mm256_load_si256(panel + 3);
#pragma GCC unroll 4
        for (int i = 0; i < T; i++) {
            const __m256i low = four(x + i * kQ4Block), high = four(x + i * kQ4Block + 4);
            const __m256i first = _mm256_add_epi16(_mm256_maddubs_epi16(w0, low), _mm256_maddubs_epi16(w1, high));
            const __m256i second = _mm256_add_epi16(_mm256_maddubs_epi16(w2, low), _mm256_maddubs_epi16(w3, high));
            sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(first, ones));
            sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(second, ones));
        }
    }
    const __m256 absmax0 = _mm256_load_ps(block.absmax), absmax1 = _mm256_load_ps(block.absmax + 8);
#pragma GCC unroll 4
    for (int i = 0; i < T; i++, total += kQ4Rows) {
        const Unit unit = in.unit(block.b, t + i);
        _mm256_store_ps(total, add_block(_mm256_load_ps(total), sum[i][0], absmax0, unit, block.zero));
        _mm256_store_ps(total + 8, add_block(_mm256_load_ps(total + 8), sum[i][1], absmax1, unit, block.zero));
    }
}

constexpr decltype(&tile<1>) kRest[kTile] = {nullptr, tile<1>, tile<2>, tile<3>};

// Tokens [t, stop) times one group of rows, into total[stop - t][16], in units of the fitted levels.
AVX2 void group(const danlu_q4& w, const Fitted& fitted, const Ready8& in, int64_t g, int64_t t, int64_t stop,
                float* total) {
    const int64_t blocks = q4_blocks(w.cols);
    const __m256i levels = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)fitted.code));
    alignas(32) __m256i panel[kQ4Block / 2];
    alignas(32) float scale[kQ4Span * kQ4Rows];
    for (int64_t i = 0; i < (stop - t) * kQ4Rows; i += 8) _mm256_store_ps(total + i, _mm256_setzero_ps());
    for (int64_t b = 0; b < blocks; b++) {
        if (b % kQ4Span == 0) absmax(w, g, b, std::min(kQ4Span, blocks - b), scale);
        unpack(w.codes + (g * blocks + b) * kQ4Bytes, levels, panel);
        const Block block{panel, scale + b % kQ4Span * kQ4Rows, fitted.zero, b};
        int64_t i = t;
        for (; i + kTile <= stop; i += kTile) tile<kTile>(block, in, i, total + (i - t) * kQ4Rows);
        if (i < stop) kRest[stop - i](block, in, i, total + (i - t) * kQ4Rows);
    }
}

}  // namespace

AVX2 void multiply_tiles8(const Work& work, const Ready8& in) {
    const Fitted& fitted = fit(work.w->levels, kTop);
    const __m256 unit = _mm256_set1_ps(1 / fitted.scale);
    for (int64_t t = 0; t < work.tokens; t += kChunk) {
        const int64_t stop = std::min(work.tokens, t + kChunk);
        for (int64_t g = work.from; g < work.to; g++) {
            group(*work.w, fitted, in, g, t, stop, work.scratch);
            for (int64_t i = t; i < stop; i++) {
                const float* total = work.scratch + (i - t) * kQ4Rows;
                store16(work, g, i, _mm256_mul_ps(_mm256_load_ps(total), unit),
                        _mm256_mul_ps(_mm256_load_ps(total + 8), unit));
            }
        }
    }
}

}  // namespace q4
#endif
