// A float matrix into 4 bits: for every 64 weights the scale whose rounding leaves the least error, then the codes.
//
// A scale is tried by rounding the block with it; the best multiple of the rounded block then has the error
// sum x^2 - (sum x l)^2 / sum l^2, so the largest (sum x l)^2 / sum l^2 wins and sum x l / sum l^2 is its scale (the
// search of llama.cpp's IQ4_NL, without weights). Scales of 16 rows x 16 blocks become 8 bits between their least and
// largest, and the codes are those nearest for the scale as it will be read.
//
// An instruction set brings two functions: the scale of a block, and its codes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/cpu.h"
#include "core/team.h"
#include "q4/q4.h"

namespace q4 {

#define INLINE inline __attribute__((always_inline))

struct Quantize {
    const float* weight;  // [rows][cols]
    int64_t rows, cols;
    const float* levels;  // 16, ascending
    const float* tries;   // multiples of the largest weight of a block; none: take that itself
    int64_t tried;
    bool with_sign;  // scales take the sign of the largest weight
    uint8_t* codes;
    uint8_t* absmax;
    float* scale;
};

struct Book {
    float level[16], edge[15], rise[15];  // a value above edge[i] is at least level[i + 1] = level[i] + rise[i]

    explicit Book(const float* levels) {
        std::memcpy(level, levels, sizeof level);
        for (int i = 0; i < 15; i++) edge[i] = (levels[i] + levels[i + 1]) / 2, rise[i] = levels[i + 1] - levels[i];
    }
};

// The 64 weights of a block; zeros where the matrix has ended.
INLINE void fetch(const Quantize& q, int64_t row, int64_t block, float* x) {
    const int64_t from = block * kQ4Block, count = row < q.rows ? std::min(kQ4Block, q.cols - from) : 0;
    if (count < kQ4Block) std::memset(x, 0, kQ4Block * sizeof(float));
    if (count > 0) std::memcpy(x, q.weight + row * q.cols + from, count * sizeof(float));
}

// 16 rows x 16 blocks: their scales, the step and low they share, their codes.
template <class Isa>
INLINE void span(const Isa& isa, const Quantize& q, int64_t group, int64_t s) {
    const int64_t blocks = q4_blocks(q.cols), spans = (blocks + kQ4Span - 1) / kQ4Span;
    const int64_t first = s * kQ4Span, count = std::min(kQ4Span, blocks - first);
    alignas(32) float x[kQ4Block];
    float scale[kQ4Span * kQ4Rows];
    float low = INFINITY, high = -INFINITY;
    for (int64_t r = 0; r < kQ4Rows; r++)
        for (int64_t b = 0; b < count; b++) {
            fetch(q, group * kQ4Rows + r, first + b, x);
            float& found = scale[b * kQ4Rows + r];
            found = isa.scale_of(x);
            if (group * kQ4Rows + r < q.rows) low = std::min(low, found), high = std::max(high, found);
        }
    const float step = (high - low) / 255, inverse = step > 0 ? 1 / step : 0;
    q.scale[(group * spans + s) * 2] = step, q.scale[(group * spans + s) * 2 + 1] = low;
    for (int64_t r = 0; r < kQ4Rows; r++)
        for (int64_t b = 0; b < count; b++) {
            const float wanted = (scale[b * kQ4Rows + r] - low) * inverse;
            const auto code = uint8_t(std::lrintf(std::min(255.0f, std::max(0.0f, wanted))));
            fetch(q, group * kQ4Rows + r, first + b, x);
            q.absmax[(group * blocks + first + b) * kQ4Rows + r] = code;
            isa.encode(x, float(code) * step + low, q.codes + (group * blocks + first + b) * kQ4Bytes + 4 * r);
        }
}

template <class Isa>
INLINE void quantize_groups(const Isa& isa, const Quantize& q, int part, int parts) {
    const int64_t all = q4_groups(q.rows), spans = (q4_blocks(q.cols) + kQ4Span - 1) / kQ4Span;
    for (int64_t g = all * part / parts; g < all * (part + 1) / parts; g++)
        for (int64_t s = 0; s < spans; s++) span(isa, q, g, s);
}

}  // namespace q4

// weight (rows, cols) into the parts of a danlu_q4 with linear absmax; `codes`, `absmax` and `scale` have its sizes.
// levels ascend from -1 to 1. tries: what multiples of a block's largest weight its scale is searched from, none to
// take it.
#define DANLU_QUANTIZE_Q4(isa, work)                                                                              \
    DANLU_API int danlu_quantize_q4_##isa(const float* weight, int64_t weight_floats, int64_t rows, int64_t cols, \
                                          const float* levels, const float* tries, int64_t tried, int with_sign,  \
                                          uint8_t* codes, uint8_t* absmax, float* scale, int threads) {           \
        constexpr int64_t kMost = int64_t(1) << 40;                                                               \
        if (rows < 1 || cols < 1 || rows > kMost || cols > kMost / rows || weight_floats != rows * cols ||        \
            tried < 0 || threads < 1 || !danlu_cpu_runs(#isa))                                                    \
            return DANLU_BAD_SIZE;                                                                                \
        q4::Quantize q{weight, rows, cols, levels, tries, tried, with_sign != 0, codes, absmax, scale};           \
        danlu_together(int(std::min<int64_t>(threads, q4_groups(rows))), work, &q);                               \
        return DANLU_OK;                                                                                          \
    }
