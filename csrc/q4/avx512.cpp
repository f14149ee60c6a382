// int8 with AVX-512 VNNI and VBMI: 64 weights a table look-up and a dot product, 16 rows in one register; the other
// precisions are those of AVX2. Levels become 8-bit unsigned integers (fit.h), inputs signed bytes; vpdpbusd sums four
// products in 32 bits, so neither has a limit here. Never run by us on such a CPU: tests/kernels/test_avx512.py runs it
// over a model.
#include "q4/lanes512.h"

#if defined(__x86_64__)
#include <algorithm>
#include <cstring>

#include "q4/avx2_int8.h"

namespace q4 {

namespace {

constexpr int kWholeByte = 255;
constexpr int64_t kTile = 8;      // tokens: one accumulator each, and room to spare; 12 and 16 spill
constexpr int64_t kAhead = 4096;  // bytes; the hardware's own prefetch stops at every page

// One group of 16 rows times T tokens.
template <int T>
AVX512 void group(const Work& work, const Fitted& fitted, const Ready8& in, int64_t g, int64_t first) {
    const danlu_q4& w = *work.w;
    const int64_t blocks = q4_blocks(w.cols);
    const Bytes levels = four_tables(fitted.code);
    Floats total[T];
    for (int t = 0; t < T; t++) total[t] = all(0);
    alignas(64) float scale[kQ4Span * kQ4Rows];
    const uint8_t* codes = w.codes + g * blocks * kQ4Bytes;
    for (int64_t b = 0; b < blocks; b++) {
        if (b % kQ4Span == 0) absmax(w, g, b, std::min(kQ4Span, blocks - b), scale);
        Ints low[T], high[T];
        for (int t = 0; t < T; t++) low[t] = high[t] = no_ints();
        for (int v = 0; v < 8; v++, codes += 64) {
            __builtin_prefetch(codes + kAhead);
            const Bytes bytes = load_bytes(codes);
            const Bytes w_low = look_up(levels, bytes), w_high = look_up(levels, high_nibbles(bytes));
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) {
                const int8_t* x = in.block(b, first + t) + 8 * v;
                low[t] = dot(low[t], w_low, four_bytes(x));
                high[t] = dot(high[t], w_high, four_bytes(x + 4));
            }
        }
        const Floats scale16 = load_floats(scale + b % kQ4Span * kQ4Rows);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
            const Unit unit = in.unit(b, first + t);
            const Floats sum = minus(floats(add(low[t], high[t])), all(fitted.zero * unit.sum));
            total[t] = times_plus(sum, times(scale16, all(unit.step)), total[t]);
        }
    }
    const int64_t n = g * kQ4Rows, rows = std::min(kQ4Rows, w.rows - n);
    for (int t = 0; t < T; t++) {
        alignas(64) float sums[kQ4Rows];
        store_floats(sums, times(total[t], all(1 / fitted.scale)));
        for (int64_t r = 0; work.bias && r < rows; r++) sums[r] += work.bias[n + r];
        std::memcpy(work.out + (first + t) * work.out_stride + n, sums, rows * sizeof(float));
    }
}

constexpr decltype(&group<1>) kGroup[kTile + 1] = {nullptr,  group<1>, group<2>, group<3>, group<4>,
                                                   group<5>, group<6>, group<7>, group<8>};

void prepare(const float* x, int64_t x_stride, int64_t tokens, int64_t from, int64_t to, int64_t cols,
             danlu_precision precision, void* ready) {
    if (precision != DANLU_INT8) return kQ4Avx2.prepare(x, x_stride, tokens, from, to, cols, precision, ready);
    const Ready8 in(ready, tokens, cols);
    for (int64_t t = from; t < to; t++)
        for (int64_t b = 0; b < q4_blocks(cols); b++) {
            float padded[kQ4Block] = {};
            const float* at = x + t * x_stride + b * kQ4Block;
            if (cols - b * kQ4Block < kQ4Block) {
                std::memcpy(padded, at, (cols - b * kQ4Block) * sizeof(float));
                at = padded;
            }
            prepare_int8(at, b, t, in, kNoLimit);
        }
}

void multiply(const danlu_q4* w, const void* ready, int64_t tokens, danlu_precision precision, int64_t from, int64_t to,
              const float* bias, float* out, int64_t out_stride, void* scratch) {
    if (precision != DANLU_INT8)
        return kQ4Avx2.multiply(w, ready, tokens, precision, from, to, bias, out, out_stride, scratch);
    const Work work{w, ready, tokens, from, to, bias, out, out_stride, static_cast<float*>(scratch)};
    const Ready8 in(ready, tokens, w->cols);
    const Fitted& fitted = fit(w->levels, kWholeByte);
    // All tokens pass over a group while its codes are in the second-level cache.
    for (int64_t g = from; g < to; g++)
        for (int64_t t = 0; t < tokens; t += kTile) kGroup[std::min(kTile, tokens - t)](work, fitted, in, g, t);
}

int64_t ready_bytes(int64_t tokens, int64_t cols, danlu_precision precision) {
    return kQ4Avx2.ready_bytes(tokens, cols, precision);
}

int64_t scratch_bytes(int64_t tokens, int64_t cols, danlu_precision precision) {
    return kQ4Avx2.scratch_bytes(tokens, cols, precision);
}

}  // namespace
}  // namespace q4

const danlu_q4_kernels kQ4Avx512 = {"avx512", q4::ready_bytes, q4::scratch_bytes, q4::prepare, q4::multiply};
#endif
