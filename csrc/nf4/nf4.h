// NF4 weights as the kernels see them. The bytes are those of docs/formats.md, "quantized folder".
#pragma once

#include <cstdint>

#include "core/status.h"

constexpr int64_t kBlock = 64;         // weights that share one absmax
constexpr int64_t kAbsmaxBlock = 256;  // absmax values that share one scale, counted over the whole tensor

// A (rows, cols) matrix; every row is padded to whole blocks. The codebook is data: 16 levels in [-1, 1].
struct danlu_nf4 {
    const uint8_t* packed;  // [rows][blocks][32]: element 2i in the high nibble of byte i, 2i + 1 in the low one
    int64_t packed_bytes;
    const uint8_t* absmax;  // [rows][blocks]: index into `map`
    int64_t absmax_bytes;
    const float* scale;     // absmax = map[code] * scale[index / 256] + offset
    int64_t scales;
    const float* levels;    // 16
    const float* map;       // 256
    float offset;
    int64_t rows, cols;
};

inline int64_t nf4_blocks(const danlu_nf4& w) { return (w.cols + kBlock - 1) / kBlock; }

// True when every buffer has the bytes that rows and cols ask for.
inline bool nf4_sizes_hold(const danlu_nf4& w) {
    constexpr int64_t kMost = int64_t(1) << 40;  // keeps every product below within 64 bits
    if (w.rows < 1 || w.cols < 1 || w.rows > kMost || w.cols > kMost / w.rows) return false;
    const int64_t count = w.rows * nf4_blocks(w);
    return w.packed_bytes == count * kBlock / 2 && w.absmax_bytes == count &&
           w.scales == (count + kAbsmaxBlock - 1) / kAbsmaxBlock;
}

// The absmax of one block; `index` counts blocks over the whole tensor.
inline float nf4_absmax(const danlu_nf4& w, int64_t index) {
    return w.map[w.absmax[index]] * w.scale[index / kAbsmaxBlock] + w.offset;
}

// out (x_rows, rows) = x (x_rows, cols) @ w^T + bias (rows, or null), on `threads` threads.
#define DANLU_LINEAR_NF4(isa)                                                                                       \
    DANLU_API int danlu_linear_nf4_##isa(const danlu_nf4* w, const float* x, int64_t x_rows, int64_t x_floats,       \
                                         const float* bias, float* out, int64_t out_floats, int threads)
DANLU_LINEAR_NF4(ref);
DANLU_LINEAR_NF4(avx2);

inline bool nf4_linear_sizes_hold(const danlu_nf4& w, int64_t x_rows, int64_t x_floats, int64_t out_floats) {
    return nf4_sizes_hold(w) && x_rows >= 1 && x_floats / x_rows == w.cols && x_floats % x_rows == 0 &&
           out_floats / x_rows == w.rows && out_floats % x_rows == 0;
}
