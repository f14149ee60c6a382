// The op program of docs/formats.md as C sees it: what src/danlu/kernels/engine.py fills in and run.cpp interprets.
#pragma once

#include <cstdint>

#include "core/status.h"
#include "shm/shm.h"

constexpr int kProgramVersion = 2;

// Numbers of src/danlu/kernels/program.py, class Code; what each does is said there.
enum danlu_code : int32_t {
    OP_EMBED, OP_TAKE, OP_NORM, OP_LINEAR, OP_HEAD_NORM, OP_ANGLES, OP_ROPE, OP_STORE, OP_ATTEND, OP_GATE, OP_ADD,
    OP_PAST, OP_ROUTE, OP_EXPERTS, OP_COLLECT, OP_BLEND, OP_REDUCE, OP_GATHER, OP_COUNT,
};

// Of a weight, and (the first three, and 8 bits) of keys and values. The data of a KIND_Q4 is a danlu_q4 (q4/q4.h).
enum danlu_kind : int32_t { KIND_FP32, KIND_BF16, KIND_FP16, KIND_Q4, KIND_COUNT, KIND_INT8 = KIND_COUNT };

enum danlu_rows : int32_t { ROWS_TOKENS, ROWS_WANTED };  // how many rows a buffer has in a step

struct danlu_op {
    int32_t code, out, source, other;
    int32_t weight[3], bias[3];  // -1 for none
    int32_t n[4];
    float scale;
    int32_t unused;
};

struct danlu_weight {
    const void* data;
    int64_t rows, cols;
    int32_t kind, unused;
};

struct danlu_buffer {
    float* data;  // [rows of the step x times][cols]
    int64_t cols;
    int32_t rows, times;
};

// Pages of keys and values: per layer [pages * page][heads][size], read and written in place; in 8 bits a head has two more
// bytes, what one unit is worth in bf16. `edges` has what a layer's two convolutions over time look back at, [pages][width]
// after the newest token of each page, in bf16 beside 8 bits; null without any.
struct danlu_kv {
    void* const* keys;
    void* const* values;
    void* const* edges;
    int32_t kind, page, heads, size;
};

// Tokens start .. start + count - 1 of one sequence, in rows row .. of the step; its pages begin at `pages` of the table.
struct danlu_piece {
    int32_t row, count, start, pages;
};

// Why a step ended before its last operator: a danlu_status of the sum it is at, and the rank that says so of.
struct danlu_stop {
    int32_t status, rank;
};

struct danlu_program {
    const danlu_op* ops;
    const danlu_weight* weights;
    const danlu_buffer* buffers;
    danlu_kv kv;
    char* scratch;
    int64_t scratch_bytes;
    double* seconds;  // per op, added to; null to not measure
    int32_t count, version;
    int32_t precision, unused;  // danlu_precision, of products with 4-bit weights
    danlu_shm* ranks;           // this process's end of a segment, null for a model that is not shared
    int64_t patience_ns;        // of one wait for the other ranks
    danlu_stop* stop;           // where that ends a step
};

struct danlu_step {
    const int32_t* tokens;   // [rows]
    const int32_t* wanted;   // [wanted_rows]: rows whose logits are asked for
    const danlu_piece* pieces;
    const int32_t* pages;
    int32_t rows, wanted_rows, piece_count, unused;
};
