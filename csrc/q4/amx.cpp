// Prompts with AMX, in int8 and bf16: a block of 16 rows, unpacked, is one register (two in bf16), and one instruction
// multiplies it with 16 tokens. A few tokens, and the other precisions, are those of avx512_bf16.cpp. Never run by us on
// such a CPU: tests/kernels/test_avx512.py runs it over a model.
//
// The sums of a block leave the registers, for every block has an absmax of its own: about 80 instructions beside one
// product of 16 cycles (counted, not measured), so that this is some three times VNNI's rate, not sixteen.
#include "q4/tiles.h"

#if defined(DANLU_KNOWS_AMX)
#include <algorithm>

#include "q4/avx2_int8.h"

namespace q4 {

namespace {

constexpr int64_t kFewest = 9;                  // tokens: eight and fewer are one pass of AVX-512
constexpr int64_t kChunk = 4 * kTileRows;       // tokens that multiply one unpacked block
constexpr int kInput = 4, kLast = 5, kWeight = 6, kLastSum = 7;  // registers; sums are in 0 to 3
constexpr int kWholeByte = 255;

struct Sums {
    alignas(64) int32_t at[kChunk][kQ4Rows];  // or floats, of bf16
};

struct Int8 {
    static constexpr int kParts = 1;  // registers of one block
    static constexpr int64_t kInputBytes = kQ4Block;
    const Fitted& fitted;
    Ready8 in;

    Int8(const danlu_q4& w, const void* ready, int64_t tokens)
        : fitted(fit(w.levels, kWholeByte)), in(ready, tokens, w.cols) {}
    const void* input(int64_t b, int64_t t) const { return in.block(b, t); }
    template <int Sum, int A>
    static void dot() {
        dot_tiles8<Sum, A, kWeight>();
    }
    AVX512 void unpack(const uint8_t* codes, uint8_t* to) const {
        const Bytes levels = four_tables(fitted.code);
        for (int v = 0; v < 8; v++, codes += 64, to += 128) {
            const Bytes bytes = load_bytes(codes);
            store_bytes(to, look_up(levels, bytes));
            store_bytes(to + 64, look_up(levels, high_nibbles(bytes)));
        }
    }
    AVX512 Floats worth(const int32_t* sums, Floats scale16, int64_t b, int64_t t, Floats total) const {
        const Unit unit = in.unit(b, t);
        const Floats sum = minus(floats(load_ints(sums)), all(fitted.zero * unit.sum));
        return times_plus(sum, times(scale16, all(unit.step)), total);
    }
    float level() const { return 1 / fitted.scale; }
};

struct Bf16 {
    static constexpr int kParts = 2;
    static constexpr int64_t kInputBytes = 2 * kQ4Block;
    Levels levels;
    ReadyBf16 in;

    Bf16(const danlu_q4& w, const void* ready, int64_t tokens) : levels(w.levels), in(ready, tokens) {}
    const void* input(int64_t b, int64_t t) const { return in.block(b, t); }
    template <int Sum, int A>
    static void dot() {
        dot_tiles16<Sum, A, kWeight>();
    }
    AVX512 void unpack(const uint8_t* codes, uint8_t* to) const {
        const Bytes table = load_bytes(reinterpret_cast<const uint8_t*>(levels.twice));
        for (int v = 0; v < 8; v++, codes += 64, to += 256) {
            const Bytes bytes = load_bytes(codes);
            store_bytes(to, look_up_words(table, bytes));
            store_bytes(to + 64, look_up_words(table, nibble<4>(bytes)));
            store_bytes(to + 128, look_up_words(table, nibble<8>(bytes)));
            store_bytes(to + 192, look_up_words(table, nibble<12>(bytes)));
        }
    }
    AVX512 static Floats worth(const int32_t* sums, Floats scale16, int64_t, int64_t, Floats total) {
        return times_plus(load_floats(reinterpret_cast<const float*>(sums)), scale16, total);
    }
    static float level() { return 1; }
};

template <class Rung, int Sum, int A>
void multiply_tile(const Rung& rung, const uint8_t* weight, int64_t b, int64_t t, int32_t* to) {
    zero_tile<Sum>();
    for (int part = 0; part < Rung::kParts; part++) {
        if (Rung::kParts > 1) load_tile<kWeight>(weight + part * kTileRows * kTileBytes, kTileBytes);
        load_tile<A>(static_cast<const char*>(rung.input(b, t)) + part * kTileBytes, Rung::kInputBytes);
        Rung::template dot<Sum, A>();
    }
    store_tile<Sum>(to, kTileBytes);
}

// One block of 16 rows times `count` tokens from `first` on.
template <class Rung>
void multiply_block(const Rung& rung, const uint8_t* weight, int64_t b, int64_t first, int64_t count, Sums& sums) {
    if (Rung::kParts == 1) load_tile<kWeight>(weight, kTileBytes);
    const int64_t whole = count / kTileRows, rest = count % kTileRows;
    if (whole > 0) multiply_tile<Rung, 0, kInput>(rung, weight, b, first, sums.at[0]);
    if (whole > 1) multiply_tile<Rung, 1, kInput>(rung, weight, b, first + 16, sums.at[16]);
    if (whole > 2) multiply_tile<Rung, 2, kInput>(rung, weight, b, first + 32, sums.at[32]);
    if (whole > 3) multiply_tile<Rung, 3, kInput>(rung, weight, b, first + 48, sums.at[48]);
    if (rest) multiply_tile<Rung, kLastSum, kLast>(rung, weight, b, first + 16 * whole, sums.at[16 * whole]);
}

// A group of 16 rows times a chunk of tokens.
template <class Rung>
AVX512 void group(const Work& work, const Rung& rung, int64_t g, int64_t first, int64_t count) {
    const danlu_q4& w = *work.w;
    const int64_t blocks = q4_blocks(w.cols), n = g * kQ4Rows, rows = std::min(kQ4Rows, w.rows - n);
    alignas(64) uint8_t weight[Rung::kParts * kTileRows * kTileBytes];
    alignas(64) float scale[kQ4Span * kQ4Rows], total[kChunk][kQ4Rows] = {};
    Sums sums;
    for (int64_t b = 0; b < blocks; b++) {
        if (b % kQ4Span == 0) absmax(w, g, b, std::min(kQ4Span, blocks - b), scale);
        rung.unpack(w.codes + (g * blocks + b) * kQ4Bytes, weight);
        multiply_block(rung, weight, b, first, count, sums);
        const Floats scale16 = load_floats(scale + b % kQ4Span * kQ4Rows);
        for (int64_t t = 0; t < count; t++)
            store_floats(total[t], rung.worth(sums.at[t], scale16, b, first + t, load_floats(total[t])));
    }
    for (int64_t t = 0; t < count; t++) {
        float* out = work.out + (first + t) * work.out_stride + n;
        for (int64_t r = 0; r < rows; r++) out[r] = total[t][r] * rung.level() + (work.bias ? work.bias[n + r] : 0);
    }
}

template <class Rung>
void multiply_all(const Work& work) {
    const Rung rung(*work.w, work.ready, work.tokens);
    const int last = work.tokens % kTileRows ? int(work.tokens % kTileRows) : kTileRows;
    Shapes shapes;
    for (int tile : {0, 1, 2, 3, kInput, kWeight}) shapes.set(tile, kTileRows);
    shapes.set(kLast, last), shapes.set(kLastSum, last);
    shape_tiles(shapes);
    for (int64_t g = work.from; g < work.to; g++)
        for (int64_t t = 0; t < work.tokens; t += kChunk) group(work, rung, g, t, std::min(kChunk, work.tokens - t));
    release_tiles();  // or the system saves 8 KiB at every switch from this thread
}

void multiply(const danlu_q4* w, const void* ready, int64_t tokens, danlu_precision precision, int64_t from, int64_t to,
              const float* bias, float* out, int64_t out_stride, void* scratch) {
    const Work work{w, ready, tokens, from, to, bias, out, out_stride, static_cast<float*>(scratch)};
    if (tokens >= kFewest && precision == DANLU_INT8) return multiply_all<Int8>(work);
    if (tokens >= kFewest && precision == DANLU_BFLOAT16) return multiply_all<Bf16>(work);
    kQ4Avx512Bf16.multiply(w, ready, tokens, precision, from, to, bias, out, out_stride, scratch);
}

void prepare(const float* x, int64_t x_stride, int64_t tokens, int64_t from, int64_t to, int64_t cols,
             danlu_precision precision, void* ready) {
    kQ4Avx512Bf16.prepare(x, x_stride, tokens, from, to, cols, precision, ready);
}

int64_t ready_bytes(int64_t tokens, int64_t cols, danlu_precision precision) {
    return kQ4Avx512Bf16.ready_bytes(tokens, cols, precision);
}

int64_t scratch_bytes(int64_t tokens, int64_t cols, danlu_precision precision) {
    return kQ4Avx512Bf16.scratch_bytes(tokens, cols, precision);
}

}  // namespace
}  // namespace q4

const danlu_q4_kernels kQ4Amx = {"amx", q4::ready_bytes, q4::scratch_bytes, q4::prepare, q4::multiply};
#endif
