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
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>

#include "core/team.h"
#include "nf4/nf4.h"

#define AVX2 __attribute__((target("avx2,fma")))

namespace {

constexpr float kTop = 16383;      // largest level and largest input
constexpr int64_t kTile = 128;     // (input row, block) pairs per tile: 16 KiB of inputs, half of a first-level cache
constexpr int64_t kRowChunk = 64;  // weight rows that stay in the second-level cache while all input rows pass
constexpr int kMostRows = 8;       // input rows per pass: one accumulator register each

struct Input {
    const danlu_nf4* w;
    const float* x;
    int64_t x_rows, blocks;
    const float* bias;
    float* out;
    int16_t* fixed;  // [x_rows][blocks][64]
    float* step;     // [x_rows][blocks]: value of one unit of `fixed` times one unit of the level
};

// Element of the block that each place holds, in the order in which the shuffles below deliver weights.
struct Order {
    uint8_t element[kBlock];
    constexpr Order() : element() {
        for (int e = 0; e < kBlock; e++) {
            const int byte = e / 2, quarter = (e % 2) * 2 + (byte / 8) % 2;
            element[quarter * 16 + (byte / 16) * 8 + byte % 8] = uint8_t(e);
        }
    }
};
constexpr Order kOrder;

// One block of inputs to 15 bits. A block that is not finite gets a NaN step, so that its sums are NaN too.
inline float fix_block(const float* x, int64_t count, int16_t* fixed) {
    float whole[kBlock] = {}, most = 0;
    bool finite = true;
    for (int64_t i = 0; i < count; i++) {
        whole[i] = x[i];
        most = std::max(most, std::fabs(x[i]));
        finite &= std::isfinite(x[i]);
    }
    const float unit = finite && most > 1e-30f ? kTop / most : 0;
    for (int i = 0; i < kBlock; i++) fixed[i] = finite ? int16_t(std::lrintf(whole[kOrder.element[i]] * unit)) : 0;
    return finite ? most / kTop / kTop : NAN;
}

void fix_part(void* arg, int part, int parts) {
    const Input& in = *static_cast<const Input*>(arg);
    for (int64_t m = in.x_rows * part / parts; m < in.x_rows * (part + 1) / parts; m++) {
        for (int64_t b = 0; b < in.blocks; b++) {
            const int64_t at = m * in.blocks + b, here = std::min(kBlock, in.w->cols - b * kBlock);
            in.step[at] = fix_block(in.x + m * in.w->cols + b * kBlock, here, in.fixed + at * kBlock);
        }
    }
}

AVX2 inline float sum8(__m256 v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

// absmax of blocks [first, first + count), counted over the tensor.
AVX2 inline void read_absmax(const danlu_nf4& w, int64_t first, int64_t count, float* absmax) {
    for (int64_t i = 0; i < count;) {
        const float scale = w.scale[(first + i) / kAbsmaxBlock];
        const int64_t stop = std::min(count, i + kAbsmaxBlock - (first + i) % kAbsmaxBlock);
        for (; i < stop; i++) absmax[i] = w.map[w.absmax[first + i]] * scale + w.offset;
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

// Weight row n times M input rows starting at m, over blocks [from, to); adds to `out` after the first tile.
template <int M>
AVX2 inline void row_times(const Input& in, const Levels& levels, int64_t n, int64_t m, int64_t from, int64_t to) {
    const danlu_nf4& w = *in.w;
    const int64_t count = to - from, stride = in.blocks * kBlock;
    const __m256i nibble = _mm256_set1_epi8(15);
    float absmax[kTile], factor[M][kTile / M];
    read_absmax(w, n * in.blocks + from, count, absmax);
    for (int i = 0; i < M; i++)
        for (int64_t b = 0; b < count; b++) factor[i][b] = absmax[b] * in.step[(m + i) * in.blocks + from + b];
    const uint8_t* packed = w.packed + (n * in.blocks + from) * kBlock / 2;
    const int16_t* fixed = in.fixed + m * stride + from * kBlock;
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
        const float before = from ? *out : in.bias ? in.bias[n] : 0.0f;
        *out = before + sum8(sum[i]);
    }
}

template <int M>
AVX2 void rows_times(const Input& in, const Levels& levels, int64_t n0, int64_t n1, int64_t m, int64_t from, int64_t to) {
    for (int64_t n = n0; n < n1; n++) row_times<M>(in, levels, n, m, from, to);
}

using Pass = void (*)(const Input&, const Levels&, int64_t, int64_t, int64_t, int64_t, int64_t);
constexpr Pass kPass[kMostRows + 1] = {nullptr,       rows_times<1>, rows_times<2>, rows_times<3>, rows_times<4>,
                                       rows_times<5>, rows_times<6>, rows_times<7>, rows_times<8>};

AVX2 void multiply_part(void* arg, int part, int parts) {
    const Input& in = *static_cast<const Input*>(arg);
    const Levels levels = levels_of(*in.w);
    const int64_t first = in.w->rows * part / parts, last = in.w->rows * (part + 1) / parts;
    const int64_t tile = kTile / std::min<int64_t>(in.x_rows, kMostRows);
    for (int64_t n = first; n < last; n += kRowChunk)
        for (int64_t from = 0; from < in.blocks; from += tile)
            for (int64_t m = 0; m < in.x_rows; m += kMostRows)
                kPass[std::min<int64_t>(in.x_rows - m, kMostRows)](in, levels, n, std::min(last, n + kRowChunk), m, from,
                                                                   std::min(in.blocks, from + tile));
}

}  // namespace

DANLU_LINEAR_NF4(avx2) {
    if (!nf4_linear_sizes_hold(*w, x_rows, x_floats, out_floats) || threads < 1) return DANLU_BAD_SIZE;
    const int64_t blocks = nf4_blocks(*w);
    auto free_it = [](void* p) { std::free(p); };
    const std::unique_ptr<void, void (*)(void*)> room(std::aligned_alloc(64, x_rows * blocks * kBlock * 2), free_it);
    const std::unique_ptr<float[]> step(new (std::nothrow) float[x_rows * blocks]);
    if (!room || !step) return DANLU_NO_MEMORY;
    Input in{w, x, x_rows, blocks, bias, out, static_cast<int16_t*>(room.get()), step.get()};
    danlu_together(int(std::min<int64_t>(threads, x_rows)), fix_part, &in);
    danlu_together(int(std::min<int64_t>(threads, w->rows)), multiply_part, &in);
    return DANLU_OK;
}
#endif
