// A float matrix into 4 bits: for every 64 weights the scale whose rounding leaves the least error, then the codes.
//
// A scale is tried by rounding the block with it; the best multiple of the rounded block then has the error
// sum x^2 - (sum x l)^2 / sum l^2, so the largest (sum x l)^2 / sum l^2 wins and sum x l / sum l^2 is its scale (the
// search of llama.cpp's IQ4_NL, without weights). Scales of 16 rows x 16 blocks become 8 bits between their least and
// largest, and the codes are those nearest for the scale as it will be read.
//
// The loops are plain, inlined into one function per instruction set; only the choice among the tries is written twice.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/cpu.h"
#include "core/team.h"
#include "q4/q4.h"

namespace q4 {

#define INLINE inline __attribute__((always_inline))

constexpr int kLanes = 8;

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

INLINE float largest(const float* x, bool with_sign) {
    float low[kLanes], high[kLanes];
    for (int j = 0; j < kLanes; j++) low[j] = high[j] = x[j];
    for (int i = kLanes; i < kQ4Block; i += kLanes)
        for (int j = 0; j < kLanes; j++) {
            low[j] = x[i + j] < low[j] ? x[i + j] : low[j];
            high[j] = x[i + j] > high[j] ? x[i + j] : high[j];
        }
    const float least = *std::min_element(low, low + kLanes), most = *std::max_element(high, high + kLanes);
    return most >= -least ? most : with_sign ? least : -least;
}

// Of a block rounded by 1 / inverse: (sum x l, sum l l).
struct Fit {
    float along, length;
};

INLINE Fit round_with(const Book& book, const float* x, float inverse) {
    float xl[kLanes] = {}, ll[kLanes] = {};
    for (int i = 0; i < kQ4Block; i += kLanes) {
        float value[kLanes], level[kLanes];
        for (int j = 0; j < kLanes; j++) value[j] = x[i + j] * inverse, level[j] = book.level[0];
        for (int e = 0; e < 15; e++)
            for (int j = 0; j < kLanes; j++) level[j] += value[j] > book.edge[e] ? book.rise[e] : 0.0f;
        for (int j = 0; j < kLanes; j++) xl[j] += x[i + j] * level[j], ll[j] += level[j] * level[j];
    }
    Fit fit{0, 0};
    for (int j = 0; j < kLanes; j++) fit.along += xl[j], fit.length += ll[j];
    return fit;
}

// The scale that block x should have before it is rounded to 8 bits. `choose` names the best of the tries.
template <class Choose>
INLINE float search(const Quantize& q, const Book& book, const float* x, const Choose& choose) {
    const float most = largest(x, q.with_sign);
    if (most == 0 || q.tried == 0) return most;
    const Fit best = round_with(book, x, 1 / (most * q.tries[choose(x, most)]));
    return best.length > 0 ? best.along / best.length : most;
}

// Codes of one block for the scale it will be read with, into its lane of the interleaved bytes.
INLINE void encode(const Book& book, const float* x, float scale, uint8_t* to) {
    const float inverse = scale != 0 ? 1 / scale : 0;
    int32_t code[kQ4Block];
    for (int i = 0; i < kQ4Block; i += kLanes) {
        float value[kLanes];
        int32_t above[kLanes] = {};
        for (int j = 0; j < kLanes; j++) value[j] = x[i + j] * inverse;
        for (int e = 0; e < 15; e++)
            for (int j = 0; j < kLanes; j++) above[j] -= -int32_t(value[j] > book.edge[e]);
        for (int j = 0; j < kLanes; j++) code[i + j] = above[j];
    }
    for (int v = 0; v < 8; v++)
        for (int i = 0; i < 4; i++) to[v * 64 + i] = uint8_t(code[8 * v + i] | code[8 * v + 4 + i] << 4);
}

// 16 rows x 16 blocks: their scales, the step and low they share, their codes.
template <class Choose>
INLINE void span(const Quantize& q, const Book& book, int64_t group, int64_t s, const Choose& choose) {
    const int64_t blocks = q4_blocks(q.cols), spans = (blocks + kQ4Span - 1) / kQ4Span;
    const int64_t first = s * kQ4Span, count = std::min(kQ4Span, blocks - first);
    alignas(32) float x[kQ4Block];
    float scale[kQ4Span * kQ4Rows];
    float low = INFINITY, high = -INFINITY;
    for (int64_t r = 0; r < kQ4Rows; r++)
        for (int64_t b = 0; b < count; b++) {
            fetch(q, group * kQ4Rows + r, first + b, x);
            float& found = scale[b * kQ4Rows + r];
            found = search(q, book, x, choose);
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
            encode(book, x, float(code) * step + low, q.codes + (group * blocks + first + b) * kQ4Bytes + 4 * r);
        }
}

template <class Choose>
INLINE void quantize_groups(const Quantize& q, const Book& book, int part, int parts, const Choose& choose) {
    const int64_t all = q4_groups(q.rows), spans = (q4_blocks(q.cols) + kQ4Span - 1) / kQ4Span;
    for (int64_t g = all * part / parts; g < all * (part + 1) / parts; g++)
        for (int64_t s = 0; s < spans; s++) span(q, book, g, s, choose);
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
