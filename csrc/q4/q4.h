// A matrix in 4 bits as the fast kernels read it: any 16 levels, 16 rows interleaved. docs/formats.md, "quantized
// folder", version 2.
//
// One 64-byte vector holds 8 columns of 16 rows: dword lane r is row r, byte i of it has column i in the low nibble and
// column 4 + i in the high one. AVX-512 reads it whole, AVX2 in two halves of 8 rows; both walk memory in one straight
// line.
#pragma once

#include <cstdint>

#include "core/status.h"

constexpr int64_t kQ4Rows = 16;                       // rows of a group
constexpr int64_t kQ4Block = 64;                      // columns that share one absmax
constexpr int64_t kQ4Span = 16;                       // blocks of a group that share one (step, low): 256 absmax
constexpr int64_t kQ4Bytes = kQ4Rows * kQ4Block / 2;  // codes of one block of one group

// Rows are padded to whole groups, columns to whole blocks; what the padding holds is never seen in a result.
struct danlu_q4 {
    const uint8_t* codes;  // [groups][blocks][8][16][4]
    int64_t codes_bytes;
    const uint8_t* absmax;  // [groups][blocks][16]
    int64_t absmax_bytes;
    const float* scale;  // map null: [groups][ceil((shift + blocks) / 16)][2], absmax = code * step + low
    int64_t scales;  // else:     absmax = map[code] * scale[(shift + row * stride + block) / 256] + offset
    const float* map;  // null or 256
    float offset;
    const float* levels;  // 16, each in [-1, 1]
    int64_t rows, cols;
    const danlu_q4* rest;  // null, or a matrix of the same shape to add (8 bits); the engine adds, no kernel here does
    int64_t shift;   // of a part of a larger matrix: where its first block is in the first span (map: in the first 256)
    int64_t stride;  // map: absmax of a row of the whole matrix, 0 when that is `blocks`
};

inline int64_t q4_blocks(int64_t cols) { return (cols + kQ4Block - 1) / kQ4Block; }
inline int64_t q4_groups(int64_t rows) { return (rows + kQ4Rows - 1) / kQ4Rows; }
inline int64_t q4_spans(const danlu_q4& w) { return (w.shift + q4_blocks(w.cols) + kQ4Span - 1) / kQ4Span; }
inline int64_t q4_stride(const danlu_q4& w) { return w.stride ? w.stride : q4_blocks(w.cols); }

// True when every buffer has the bytes that rows and cols ask for.
inline bool q4_sizes_hold(const danlu_q4& w) {
    constexpr int64_t kMost = int64_t(1) << 40;  // keeps every product below within 64 bits
    if (w.rows < 1 || w.cols < 1 || w.rows > kMost || w.cols > kMost / w.rows) return false;
    if (w.shift < 0 || w.shift >= (w.map ? 256 : kQ4Span) || w.stride < 0 || w.stride > kMost / w.rows) return false;
    const int64_t groups = q4_groups(w.rows), blocks = q4_blocks(w.cols), stride = q4_stride(w);
    if (stride < blocks || (w.stride && !w.map)) return false;
    const int64_t scales = w.map ? (w.shift + (w.rows - 1) * stride + blocks - 1) / 256 + 1 : groups * q4_spans(w) * 2;
    return w.codes_bytes == groups * blocks * kQ4Bytes && w.absmax_bytes == groups * blocks * kQ4Rows &&
           w.scales == scales;
}

// The least precision the caller accepts; a kernel may give more, as those without bf16 give int16 for it.
enum danlu_precision : int { DANLU_FP32 = 0, DANLU_INT16 = 1, DANLU_INT8 = 2, DANLU_BFLOAT16 = 3 };

// One instruction set's kernels. Nothing is allocated inside: a step calls `prepare` once per input and `multiply` once
// per matrix and thread, each on its own rows.
struct danlu_q4_kernels {
    const char* isa;
    // Bytes of the prepared input of so many tokens, and of one thread's scratch. Both buffers must start at 64 bytes.
    int64_t (*ready_bytes)(int64_t tokens, int64_t cols, danlu_precision precision);
    int64_t (*scratch_bytes)(int64_t tokens, int64_t cols, danlu_precision precision);
    // Bring tokens [from, to) of x, rows of x_stride floats, to the form `multiply` reads. `tokens` is the whole count.
    void (*prepare)(const float* x, int64_t x_stride, int64_t tokens, int64_t from, int64_t to, int64_t cols,
                    danlu_precision precision, void* ready);
    // out[t * out_stride + n] = x_t . w_n + bias[n] for every token t and the rows n of groups [from, to); bias may be
    // null. An input that is not finite gives outputs that are not.
    void (*multiply)(const danlu_q4* w, const void* ready, int64_t tokens, danlu_precision precision, int64_t from,
                     int64_t to, const float* bias, float* out, int64_t out_stride, void* scratch);
};

// The kernels of an instruction set ("ref", "avx2", "avx512", "avx512bf16", "amx"), null when this machine does not run
// it or the compiler did not know it.
const danlu_q4_kernels* danlu_q4_find(const char* isa);
// The fastest this machine runs; never null.
const danlu_q4_kernels* danlu_q4_best();

// absmax of blocks [from, from + count) of a group as floats, out[count][16]. In a file of its own.
void q4_absmax(const danlu_q4& w, int64_t group, int64_t from, int64_t count, float* out);
