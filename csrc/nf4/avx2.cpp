// NF4 linear with AVX2: 15-bit integers, 64 weights of one row at a time, relative error about 1e-4.
//
// 32 packed bytes are one block. Two byte shuffles per half look up the low and high byte of the level as a 16-bit number;
// pmaddwd multiplies it with the input, which was brought to 15 bits per block once per call, in the order the shuffles give.
// Levels and inputs stay within 16383, so that the 8 products a 32-bit lane sums cannot overflow.
// Functions carry the target as an attribute: a file-wide pragma or flag would put AVX2 into inline functions of the
// standard library, which the linker may then choose for CPUs without it.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "core/team.h"
#include "nf4/nf4.h"

#define AVX2 __attribute__((target("avx2,fma")))

namespace {

constexpr float kTop = 16383;    // largest level and largest input
constexpr int64_t kTile = 128;   // (input row, block) pairs per tile: 16 KiB of inputs, half of a first-level cache
constexpr int64_t kChunk = 1024; // (weight row, block) pairs that stay in the caches while all input rows pass: 33 KiB
constexpr int kMostRows = 8;     // input rows per pass: one accumulator register each
constexpr int64_t kVector = 8;   // floats of a register; every row of `step` has room for whole ones

struct Input {
    const danlu_nf4* w;
    const float* x;
    int64_t x_rows, blocks, step_row;
    const float* bias;
    float* out;
    int16_t* fixed;  // [x_rows][blocks][64]
    float* step;     // [x_rows][step_row]: value of one unit of `fixed` times one unit of the level
};

// One block of inputs to 15 bits, in the order in which the shuffles of `row_times` deliver weights: the even ones of
// elements 0..15 and 32..47, the even ones of the other halves, then the odd ones likewise. Returns the step, which is
// NaN for a block that is not finite, so that its sums are NaN too.
AVX2 inline float fix_block(const float* x, int16_t* fixed) {
    const __m256 positive = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)), top = _mm256_set1_ps(FLT_MAX);
    __m256 most8 = _mm256_setzero_ps(), finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    for (int i = 0; i < kBlock; i += 8) {
        const __m256 size = _mm256_and_ps(_mm256_loadu_ps(x + i), positive);
        most8 = _mm256_max_ps(size, most8);
        finite = _mm256_and_ps(finite, _mm256_cmp_ps(size, top, _CMP_LE_OQ));
    }
    __m128 most4 = _mm_max_ps(_mm256_castps256_ps128(most8), _mm256_extractf128_ps(most8, 1));
    most4 = _mm_max_ps(most4, _mm_movehl_ps(most4, most4));
    const float most = _mm_cvtss_f32(_mm_max_ss(most4, _mm_movehdup_ps(most4)));
    const bool whole = _mm256_movemask_ps(finite) == 255;
    const __m256 unit = _mm256_set1_ps(whole && most > 1e-30f ? kTop / most : 0);
    const __m128i even_then_odd = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    for (int i = 0; i < kBlock; i += 16) {
        __m128i part[2];
        for (int j = 0; j < 2; j++) {
            const __m256i eight = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), unit));
            const __m128i four = _mm_packs_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
            part[j] = _mm_shuffle_epi8(four, even_then_odd);
        }
        int16_t* place = fixed + i % 32 + i / 32 * 8;  // 0, 16, 32, 48 -> 0, 16, 8, 24
        _mm_store_si128((__m128i*)place, _mm_unpacklo_epi64(part[0], part[1]));
        _mm_store_si128((__m128i*)(place + 32), _mm_unpackhi_epi64(part[0], part[1]));
    }
    return whole ? most / kTop / kTop : NAN;
}

AVX2 void fix_part(void* arg, int part, int parts) {
    const Input& in = *static_cast<const Input*>(arg);
    for (int64_t m = in.x_rows * part / parts; m < in.x_rows * (part + 1) / parts; m++) {
        for (int64_t b = 0; b < in.blocks; b++) {
            const float* x = in.x + m * in.w->cols + b * kBlock;
            float padded[kBlock] = {};
            if (b == in.blocks - 1 && in.w->cols % kBlock) {
                std::memcpy(padded, x, in.w->cols % kBlock * sizeof(float));
                x = padded;
            }
            in.step[m * in.step_row + b] = fix_block(x, in.fixed + (m * in.blocks + b) * kBlock);
        }
    }
}

AVX2 inline float sum8(__m256 v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

// absmax of blocks [first, first + count), counted over the tensor. The table is read by integer moves into memory: the
// compiler's own vector form spends the shuffles that the products need.
AVX2 inline void read_absmax(const danlu_nf4& w, int64_t first, int64_t count, float* absmax) {
    const uint8_t* code = w.absmax + first;
    int64_t done = 0;
    for (; done + 8 <= count; done += 8) {
        uint64_t codes;
        std::memcpy(&codes, code + done, 8);
        for (int i = 0; i < 8; i++) {
            uint32_t bits;
            std::memcpy(&bits, w.map + (codes >> 8 * i & 255), 4);
            std::memcpy(absmax + done + i, &bits, 4);
            __asm__ volatile("" ::: "memory");
        }
    }
    for (; done < count; done++) absmax[done] = w.map[code[done]];
    for (int64_t i = 0; i < count;) {
        const float scale = w.scale[(first + i) / kAbsmaxBlock];
        const int64_t stop = std::min(count, i + kAbsmaxBlock - (first + i) % kAbsmaxBlock);
        for (; i < stop; i++) absmax[i] = absmax[i] * scale + w.offset;
    }
}

struct Levels {
    __m256i low, high;  // bytes of the 16-bit levels
};

AVX2 inline Levels levels_of(const danlu_nf4& w) {
    alignas(16) uint8_t low[16], high[16];
    for (int i = 0; i < 16; i++) {
        const auto level = uint16_t(int16_t(std::lrintf(w.levels[i] * kTop)));
        low[i] = uint8_t(level & 255), high[i] = uint8_t(level >> 8);
    }
    return {_mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)low)),
            _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)high))};
}

// Some blocks of some weight rows.
struct Patch {
    int64_t row, rows, from, to;  // weight rows [row, row + rows), blocks [from, to)
    const float* absmax;          // [rows][stride]
    int64_t stride;
};

// Weight row `r` of the patch times M input rows starting at m; adds to `out` after the first blocks.
template <int M>
AVX2 inline void row_times(const Input& in, const Levels& levels, const Patch& patch, int64_t r, int64_t m) {
    const danlu_nf4& w = *in.w;
    const int64_t n = patch.row + r, count = patch.to - patch.from, stride = in.blocks * kBlock;
    alignas(32) float factor[M][kTile / M + kVector];
    for (int64_t b = 0; b < count; b += kVector) {
        const __m256 absmax = _mm256_load_ps(patch.absmax + r * patch.stride + b);
        for (int i = 0; i < M; i++) {
            const __m256 step = _mm256_loadu_ps(in.step + (m + i) * in.step_row + patch.from + b);
            _mm256_storeu_ps(&factor[i][b], _mm256_mul_ps(absmax, step));
        }
    }
    const __m256i nibble = _mm256_set1_epi8(15);
    const uint8_t* packed = w.packed + (n * in.blocks + patch.from) * kBlock / 2;
    const int16_t* fixed = in.fixed + m * stride + patch.from * kBlock;
    __m256 sum[M];
    for (int i = 0; i < M; i++) sum[i] = _mm256_setzero_ps();
    for (int64_t b = 0; b < count; b++, packed += kBlock / 2, fixed += kBlock) {
        const __m256i bytes = _mm256_loadu_si256((const __m256i*)packed);
        const __m256i odd = _mm256_and_si256(bytes, nibble);
        const __m256i even = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
        const __m256i even_low = _mm256_shuffle_epi8(levels.low, even), even_high = _mm256_shuffle_epi8(levels.high, even);
        const __m256i odd_low = _mm256_shuffle_epi8(levels.low, odd), odd_high = _mm256_shuffle_epi8(levels.high, odd);
        const __m256i w0 = _mm256_unpacklo_epi8(even_low, even_high), w1 = _mm256_unpackhi_epi8(even_low, even_high);
        const __m256i w2 = _mm256_unpacklo_epi8(odd_low, odd_high), w3 = _mm256_unpackhi_epi8(odd_low, odd_high);
        for (int i = 0; i < M; i++) {
            const __m256i* x = (const __m256i*)(fixed + i * stride);
            const __m256i a = _mm256_add_epi32(_mm256_madd_epi16(w0, _mm256_load_si256(x)),
                                               _mm256_madd_epi16(w1, _mm256_load_si256(x + 1)));
            const __m256i c = _mm256_add_epi32(_mm256_madd_epi16(w2, _mm256_load_si256(x + 2)),
                                               _mm256_madd_epi16(w3, _mm256_load_si256(x + 3)));
            const __m256 dot = _mm256_cvtepi32_ps(_mm256_add_epi32(a, c));
            sum[i] = _mm256_fmadd_ps(dot, _mm256_broadcast_ss(&factor[i][b]), sum[i]);
        }
    }
    for (int i = 0; i < M; i++) {
        float* out = in.out + (m + i) * w.rows + n;
        const float before = patch.from ? *out : in.bias ? in.bias[n] : 0.0f;
        *out = before + sum8(sum[i]);
    }
}

template <int M>
AVX2 void patch_times(const Input& in, const Levels& levels, const Patch& patch, int64_t m) {
    for (int64_t r = 0; r < patch.rows; r++) row_times<M>(in, levels, patch, r, m);
}

using Pass = void (*)(const Input&, const Levels&, const Patch&, int64_t);
constexpr Pass kPass[kMostRows + 1] = {nullptr,        patch_times<1>, patch_times<2>, patch_times<3>, patch_times<4>,
                                       patch_times<5>, patch_times<6>, patch_times<7>, patch_times<8>};

AVX2 void multiply_part(void* arg, int part, int parts) {
    const Input& in = *static_cast<const Input*>(arg);
    const Levels levels = levels_of(*in.w);
    const int64_t first = in.w->rows * part / parts, last = in.w->rows * (part + 1) / parts;
    const int64_t tile = std::min(kTile / std::min<int64_t>(in.x_rows, kMostRows), in.blocks);
    const int64_t stride = (tile + kVector - 1) / kVector * kVector, chunk = kChunk / stride;
    alignas(32) float absmax[kChunk];
    for (int64_t n = first; n < last; n += chunk) {
        for (int64_t from = 0; from < in.blocks; from += tile) {
            const Patch patch{n, std::min(chunk, last - n), from, std::min(in.blocks, from + tile), absmax, stride};
            for (int64_t r = 0; r < patch.rows; r++)
                read_absmax(*in.w, (n + r) * in.blocks + from, patch.to - from, absmax + r * stride);
            for (int64_t m = 0; m < in.x_rows; m += kMostRows)
                kPass[std::min<int64_t>(in.x_rows - m, kMostRows)](in, levels, patch, m);
        }
    }
}

}  // namespace

DANLU_LINEAR_NF4(avx2) {
    if (!nf4_linear_sizes_hold(*w, x_rows, x_floats, out_floats) || threads < 1) return DANLU_BAD_SIZE;
    const int64_t blocks = nf4_blocks(*w), step_row = blocks + kVector;
    auto free_it = [](void* p) { std::free(p); };
    const std::unique_ptr<void, void (*)(void*)> room(std::aligned_alloc(64, x_rows * blocks * kBlock * 2), free_it);
    const std::unique_ptr<float[]> step(new (std::nothrow) float[x_rows * step_row]());
    if (!room || !step) return DANLU_NO_MEMORY;
    Input in{w, x, x_rows, blocks, step_row, bias, out, static_cast<int16_t*>(room.get()), step.get()};
    danlu_together(int(std::min<int64_t>(threads, x_rows)), fix_part, &in);
    danlu_together(int(std::min<int64_t>(threads, w->rows)), multiply_part, &in);
    return DANLU_OK;
}
#endif
