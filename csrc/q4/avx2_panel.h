// Any number of tokens in the precisions that unpack: 8 rows and 64 columns become a panel in the first-level cache,
// over which tiles of tokens pass. A Kind says what a panel holds:
//
//   Number                    of the prepared input
//   Tables, tables(levels)    what unpacks a code
//   kPanel                    vectors of a panel
//   kTile                     tokens of a tile
//   kChunk                    tokens whose block of inputs stays in the first-level cache
//   unpack(codes, tables, panel)               8 rows of one block, the rows 64 bytes apart
//   tile<T>(panel, in, b, t, absmax, total)    adds 8 rows times tokens [t, t + T) to total[T][16]
#pragma once

#include <algorithm>

#include "q4/avx2.h"

#if defined(__x86_64__)
namespace q4 {

// The last `count` tokens, at most T: fewer than a tile.
template <class Kind, int T>
AVX2 void rest(const __m256i* panel, const Ready<typename Kind::Number>& in, int64_t b, int64_t t, int64_t count,
               __m256 absmax, float* total) {
    if constexpr (T > 0) {
        if (count == T)
            Kind::template tile<T>(panel, in, b, t, absmax, total);
        else
            rest<Kind, T - 1>(panel, in, b, t, count, absmax, total);
    }
}

// Tokens [t, stop) times one group of rows, into total[stop - t][16].
template <class Kind>
AVX2 void panels(const Work& work, const typename Kind::Tables& levels, const Ready<typename Kind::Number>& in,
                 int64_t g, int64_t t, int64_t stop, float* total) {
    const danlu_q4& w = *work.w;
    const int64_t blocks = q4_blocks(w.cols);
    alignas(32) __m256i panel[Kind::kPanel];
    alignas(32) float scale[kQ4Span * kQ4Rows];
    for (int64_t i = 0; i < (stop - t) * kQ4Rows; i += 8) _mm256_store_ps(total + i, _mm256_setzero_ps());
    for (int64_t b = 0; b < blocks; b++) {
        if (b % kQ4Span == 0) absmax(w, g, b, std::min(kQ4Span, blocks - b), scale);
        for (int half = 0; half < 2; half++) {
            Kind::unpack(w.codes + (g * blocks + b) * kQ4Bytes + 32 * half, levels, panel);
            const __m256 scale8 = _mm256_load_ps(scale + b % kQ4Span * kQ4Rows + 8 * half);
            float* to = total + 8 * half;
            int64_t i = t;
            for (; i + Kind::kTile <= stop; i += Kind::kTile, to += Kind::kTile * kQ4Rows)
                Kind::template tile<Kind::kTile>(panel, in, b, i, scale8, to);
            rest<Kind, Kind::kTile - 1>(panel, in, b, i, stop - i, scale8, to);
        }
    }
}

template <class Kind>
AVX2 void multiply_panels(const Work& work) {
    const Ready<typename Kind::Number> in(work.ready, work.tokens, work.w->cols);
    const typename Kind::Tables levels = Kind::tables(work.w->levels);
    for (int64_t t = 0; t < work.tokens; t += Kind::kChunk) {
        const int64_t stop = std::min(work.tokens, t + Kind::kChunk);
        for (int64_t g = work.from; g < work.to; g++) {
            panels<Kind>(work, levels, in, g, t, stop, work.scratch);
            for (int64_t i = t; i < stop; i++) {
                const float* total = work.scratch + (i - t) * kQ4Rows;
                store16(work, g, i, _mm256_load_ps(total), _mm256_load_ps(total + 8));
            }
        }
    }
}

}  // namespace q4
#endif
