// The table of the AVX2 kernels, and what they share.
#include "q4/avx2_int8.h"

#if defined(__x86_64__)
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

namespace q4 {

AVX2 float largest(const float* x) {
    const __m256 positive = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)), top = _mm256_set1_ps(FLT_MAX);
    __m256 most8 = _mm256_setzero_ps(), finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    for (int i = 0; i < kQ4Block; i += 8) {
        const __m256 size = _mm256_and_ps(_mm256_loadu_ps(x + i), positive);
        most8 = _mm256_max_ps(size, most8);
        finite = _mm256_and_ps(finite, _mm256_cmp_ps(size, top, _CMP_LE_OQ));
    }
    __m128 most4 = _mm_max_ps(_mm256_castps256_ps128(most8), _mm256_extractf128_ps(most8, 1));
    most4 = _mm_max_ps(most4, _mm_movehl_ps(most4, most4));
    const float most = _mm_cvtss_f32(_mm_max_ss(most4, _mm_movehdup_ps(most4)));
    return _mm256_movemask_ps(finite) == 255 ? most : NAN;
}

AVX2 void absmax(const danlu_q4& w, int64_t group, int64_t from, int64_t count, float* out) {
    if (w.map) return q4_absmax(w, group, from, count, out);
    const int64_t first = w.shift + from;
    const float* scale = w.scale + (group * q4_spans(w) + first / kQ4Span) * 2;
    const uint8_t* code = w.absmax + (group * q4_blocks(w.cols) + from) * kQ4Rows;
    for (int64_t done = 0; done < count; scale += 2) {  // twice for 16 blocks of a part that begins inside a span
        const int64_t stop = std::min(count, ((first + done) / kQ4Span + 1) * kQ4Span - first);
        const __m256 step = _mm256_set1_ps(scale[0]), low = _mm256_set1_ps(scale[1]);
        for (int64_t i = done * kQ4Rows; i < stop * kQ4Rows; i += 8) {
            const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(code + i)));
            // Not fused, as in absmax.cpp.
            _mm256_storeu_ps(out + i, _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(wide), step), low));
        }
        done = stop;
    }
}

AVX2 void store16(const Work& work, int64_t g, int64_t t, __m256 low, __m256 high) {
    const int64_t n = g * kQ4Rows, rows = std::min(kQ4Rows, work.w->rows - n);
    float* out = work.out + t * work.out_stride + n;
    if (rows == kQ4Rows && !work.bias) return _mm256_storeu_ps(out, low), _mm256_storeu_ps(out + 8, high);
    alignas(32) float sums[kQ4Rows];
    _mm256_store_ps(sums, low), _mm256_store_ps(sums + 8, high);
    if (work.bias)
        for (int64_t r = 0; r < rows; r++) sums[r] += work.bias[n + r];
    std::memcpy(out, sums, rows * sizeof(float));
}

namespace {

constexpr int64_t kMostTotals = 64 * kQ4Rows;  // sums of one group of rows for the tokens of a chunk

int64_t ready_bytes(int64_t tokens, int64_t cols, danlu_precision precision) {
    constexpr int64_t kInt16 = kQ4Block * 2 + 4;
    constexpr int64_t kBlockBytes[] = {kQ4Block * 4, kInt16, kQ4Block + int64_t(sizeof(Unit)), kInt16};
    return q4_blocks(cols) * tokens * kBlockBytes[precision];
}

int64_t scratch_bytes(int64_t, int64_t, danlu_precision) { return kMostTotals * int64_t(sizeof(float)); }

void prepare(const float* x, int64_t x_stride, int64_t tokens, int64_t from, int64_t to, int64_t cols,
             danlu_precision precision, void* ready) {
    for (int64_t t = from; t < to; t++) {
        for (int64_t b = 0; b < q4_blocks(cols); b++) {
            const float* at = x + t * x_stride + b * kQ4Block;
            float padded[kQ4Block] = {};
            if (cols - b * kQ4Block < kQ4Block) {
                std::memcpy(padded, at, (cols - b * kQ4Block) * sizeof(float));
                at = padded;
            }
            if (precision == DANLU_INT8)
                prepare_int8(at, b, t, Ready8(ready, tokens, cols));
            else if (precision != DANLU_FP32)
                prepare_int16(at, b, t, Ready<int16_t>(ready, tokens, cols));
            else
                std::memcpy(Ready<float>(ready, tokens, cols).block(b, t), at, kQ4Block * sizeof(float));
        }
    }
}

void multiply(const danlu_q4* w, const void* ready, int64_t tokens, danlu_precision precision, int64_t from, int64_t to,
              const float* bias, float* out, int64_t out_stride, void* scratch) {
    const Work work{w, ready, tokens, from, to, bias, out, out_stride, static_cast<float*>(scratch)};
    constexpr decltype(&multiply_fp32) kMultiply[] = {multiply_fp32, multiply_int16, multiply_int8, multiply_int16};
    kMultiply[precision](work);
}

}  // namespace
}  // namespace q4

const danlu_q4_kernels kQ4Avx2 = {"avx2", q4::ready_bytes, q4::scratch_bytes, q4::prepare, q4::multiply};
#endif
