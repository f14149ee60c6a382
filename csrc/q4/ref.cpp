// The product in plain loops and fp64 sums, for any CPU: what every other file of this folder is held to.
#include <algorithm>
#include <cstring>

#include "q4/files.h"

namespace {

int64_t ready_bytes(int64_t tokens, int64_t cols, danlu_precision) { return tokens * cols * int64_t(sizeof(float)); }

int64_t scratch_bytes(int64_t, int64_t cols, danlu_precision) {
    return (q4_blocks(cols) * (kQ4Rows + kQ4Block)) * int64_t(sizeof(float));
}

void prepare(const float* x, int64_t x_stride, int64_t, int64_t from, int64_t to, int64_t cols, danlu_precision,
             void* ready) {
    for (int64_t t = from; t < to; t++)
        std::memcpy(static_cast<float*>(ready) + t * cols, x + t * x_stride, cols * sizeof(float));
}

void multiply(const danlu_q4* w, const void* ready, int64_t tokens, danlu_precision, int64_t from, int64_t to,
              const float* bias, float* out, int64_t out_stride, void* scratch) {
    const int64_t blocks = q4_blocks(w->cols);
    float* absmax = static_cast<float*>(scratch);
    float* weight = absmax + blocks * kQ4Rows;
    for (int64_t n = from * kQ4Rows; n < std::min(to * kQ4Rows, w->rows); n++) {
        if (n % kQ4Rows == 0) q4_absmax(*w, n / kQ4Rows, 0, blocks, absmax);
        q4_row(*w, n, absmax, weight);
        for (int64_t t = 0; t < tokens; t++) {
            const float* x = static_cast<const float*>(ready) + t * w->cols;
            double sum = bias ? bias[n] : 0.0;
            for (int64_t k = 0; k < w->cols; k++) sum += double(x[k]) * weight[k];
            out[t * out_stride + n] = float(sum);
        }
    }
}

}  // namespace

void q4_row(const danlu_q4& w, int64_t row, const float* absmax, float* out) {
    const int64_t blocks = q4_blocks(w.cols), lane = row % kQ4Rows;
    const uint8_t* codes = w.codes + row / kQ4Rows * blocks * kQ4Bytes + lane * 4;
    for (int64_t k = 0; k < w.cols; k++) {
        const uint8_t byte = codes[k / 8 * kQ4Bytes / 8 + k % 4];
        out[k] = w.levels[k % 8 < 4 ? byte & 15 : byte >> 4] * absmax[k / kQ4Block * kQ4Rows + lane];
    }
}

const danlu_q4_kernels kQ4Ref = {"ref", ready_bytes, scratch_bytes, prepare, multiply};
