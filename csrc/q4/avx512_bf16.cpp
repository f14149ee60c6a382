// bf16 with AVX-512: 32 weights a table look-up and a dot product, 16 rows in one register; other precisions are those of
// avx512.cpp. Never run by us on such a CPU: tests/kernels/test_avx512.py runs it over a model.
#include "q4/bf16.h"

#if defined(DANLU_KNOWS_AMX)
#include <algorithm>

#include "q4/avx2.h"

namespace q4 {

namespace {

constexpr int64_t kTile = 8;      // tokens, as in avx512.cpp
constexpr int64_t kAhead = 4096;  // bytes

// One group of 16 rows times T tokens.
template <int T>
BF16 void group(const Work& work, const Levels& levels, const ReadyBf16& in, int64_t g, int64_t first) {
    const danlu_q4& w = *work.w;
    const int64_t blocks = q4_blocks(w.cols);
    const Bytes table = load_bytes(reinterpret_cast<const uint8_t*>(levels.twice));
    Floats total[T];
    for (int t = 0; t < T; t++) total[t] = all(0);
    alignas(64) float scale[kQ4Span * kQ4Rows];
    const uint8_t* codes = w.codes + g * blocks * kQ4Bytes;
    for (int64_t b = 0; b < blocks; b++) {
        if (b % kQ4Span == 0) absmax(w, g, b, std::min(kQ4Span, blocks - b), scale);
        Floats sum[T];
        for (int t = 0; t < T; t++) sum[t] = all(0);
        for (int v = 0; v < 8; v++, codes += 64) {
            __builtin_prefetch(codes + kAhead);
            const Bytes bytes = load_bytes(codes);
            const Bytes pair[4] = {look_up_words(table, bytes), look_up_words(table, nibble<4>(bytes)),
                                   look_up_words(table, nibble<8>(bytes)), look_up_words(table, nibble<12>(bytes))};
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) {
                const auto* x = reinterpret_cast<const int8_t*>(in.block(b, first + t) + 8 * v);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) sum[t] = dot_bf16(sum[t], pair[i], four_bytes(x + 4 * i));
            }
        }
        const Floats scale16 = load_floats(scale + b % kQ4Span * kQ4Rows);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) total[t] = times_plus(sum[t], scale16, total[t]);
    }
    const int64_t n = g * kQ4Rows, rows = std::min(kQ4Rows, w.rows - n);
    for (int t = 0; t < T; t++) {
        alignas(64) float sums[kQ4Rows];
        store_floats(sums, total[t]);
        for (int64_t r = 0; work.bias && r < rows; r++) sums[r] += work.bias[n + r];
        std::memcpy(work.out + (first + t) * work.out_stride + n, sums, rows * sizeof(float));
    }
}

constexpr decltype(&group<1>) kGroup[kTile + 1] = {nullptr,  group<1>, group<2>, group<3>, group<4>,
                                                   group<5>, group<6>, group<7>, group<8>};

int64_t ready_bytes(int64_t tokens, int64_t cols, danlu_precision precision) {
    if (precision != DANLU_BFLOAT16) return kQ4Avx512.ready_bytes(tokens, cols, precision);
    return q4_blocks(cols) * tokens * kQ4Block * int64_t(sizeof(uint16_t));
}

void prepare(const float* x, int64_t x_stride, int64_t tokens, int64_t from, int64_t to, int64_t cols,
             danlu_precision precision, void* ready) {
    if (precision != DANLU_BFLOAT16) return kQ4Avx512.prepare(x, x_stride, tokens, from, to, cols, precision, ready);
    constexpr int kPlace[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of column i of 8: the order of bf16.h
    const ReadyBf16 in(ready, tokens);
    for (int64_t t = from; t < to; t++)
        for (int64_t k = 0; k < q4_blocks(cols) * kQ4Block; k++)
            in.block(k / kQ4Block, t)[k % kQ4Block / 8 * 8 + kPlace[k % 8]] =
                k < cols ? to_bf16(x[t * x_stride + k]) : uint16_t(0);
}

void multiply(const danlu_q4* w, const void* ready, int64_t tokens, danlu_precision precision, int64_t from, int64_t to,
              const float* bias, float* out, int64_t out_stride, void* scratch) {
    if (precision != DANLU_BFLOAT16)
        return kQ4Avx512.multiply(w, ready, tokens, precision, from, to, bias, out, out_stride, scratch);
    const Work work{w, ready, tokens, from, to, bias, out, out_stride, static_cast<float*>(scratch)};
    const ReadyBf16 in(ready, tokens);
    const Levels levels(w->levels);
    for (int64_t g = from; g < to; g++)
        for (int64_t t = 0; t < tokens; t += kTile) kGroup[std::min(kTile, tokens - t)](work, levels, in, g, t);
}

int64_t scratch_bytes(int64_t tokens, int64_t cols, danlu_precision precision) {
    return kQ4Avx512.scratch_bytes(tokens, cols, precision);
}

}  // namespace
}  // namespace q4

const danlu_q4_kernels kQ4Avx512Bf16 = {"avx512bf16", q4::ready_bytes, q4::scratch_bytes, q4::prepare, q4::multiply};
#endif
