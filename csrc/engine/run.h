// What every operator of the engine is given.
#pragma once

#include <atomic>

#include "engine/program.h"
#include "q4/q4.h"

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2,fma,f16c")))
#else
#define AVX2
#endif

// All threads of a step meet here; one that waits long lets others run, for a shared machine may have taken its core.
struct Barrier {
    std::atomic<int> waiting{0};
    std::atomic<unsigned> round{0};

    void meet(int parts) {
        if (parts == 1) return;
        const unsigned now = round.load(std::memory_order_acquire);
        if (waiting.fetch_add(1, std::memory_order_acq_rel) == parts - 1) {
            waiting.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
            return;
        }
        wait(now);
    }
    void wait(unsigned now);
};

// Scratch of one step: what does not belong to a buffer.
struct Run {
    const danlu_program* program;
    const danlu_step* step;
    const danlu_q4_kernels* q4;
    int32_t* piece_of;  // [rows]
    char* ready;        // the input of 4-bit products, prepared once for all threads
    char* own;          // own_bytes for every thread
    int64_t own_bytes;
    Barrier* barrier;   // for operators whose threads meet

    int64_t rows(const danlu_buffer& b) const {
        return int64_t(b.rows == ROWS_TOKENS ? step->rows : step->wanted_rows) * b.times;
    }
    const danlu_buffer& buffer(int32_t i) const { return program->buffers[i]; }
    const danlu_weight& weight(int32_t i) const { return program->weights[i]; }
    int32_t position(int64_t row) const {
        const danlu_piece& piece = step->pieces[piece_of[row]];
        return piece.start + int32_t(row - piece.row);
    }
    // Slot of token i of a piece's sequence.
    int64_t slot(const danlu_piece& piece, int64_t i) const {
        const int64_t page = program->kv.page;
        return int64_t(step->pages[piece.pages + i / page]) * page + i % page;
    }
};

struct Span {
    int64_t from, to;
};
inline Span part_of(int64_t count, int part, int parts) { return {count * part / parts, count * (part + 1) / parts}; }

using Operator = void (*)(const Run&, const danlu_op&, int part, int parts);

void op_embed(const Run&, const danlu_op&, int, int);
void op_take(const Run&, const danlu_op&, int, int);
void op_norm(const Run&, const danlu_op&, int, int);
void op_linear(const Run&, const danlu_op&, int, int);
void op_head_norm(const Run&, const danlu_op&, int, int);
void op_angles(const Run&, const danlu_op&, int, int);
void op_rope(const Run&, const danlu_op&, int, int);
void op_store(const Run&, const danlu_op&, int, int);
void op_attend(const Run&, const danlu_op&, int, int);
void op_gate(const Run&, const danlu_op&, int, int);
void op_add(const Run&, const danlu_op&, int, int);
void op_past(const Run&, const danlu_op&, int, int);
void op_route(const Run&, const danlu_op&, int, int);
void op_experts(const Run&, const danlu_op&, int, int);
void op_collect(const Run&, const danlu_op&, int, int);
void op_blend(const Run&, const danlu_op&, int, int);
void op_reduce(const Run&, const danlu_op&, int, int);
void op_gather(const Run&, const danlu_op&, int, int);

int64_t attend_bytes(const danlu_program& program);  // of scratch, for one thread

// Products with 4-bit weights, and all of experts: the rows of a part are brought to the form that they read before any
// thread multiplies.
bool has_rest(const danlu_weight& w);  // whether it is a sum of two 4-bit matrices
bool needs_ready(const danlu_program& program, const danlu_op& op);
void op_prepare(const Run&, const danlu_op&, int part, int parts);
void prepare_experts(const Run&, const danlu_op&, int part, int parts);

// Rows `mine` of a fp32, bf16 or fp16 matrix times x_rows rows of x, into out or added to it.
struct Product {
    const float* x;
    int64_t x_cols, x_rows;
    float* out;  // column of the matrix's first row
    int64_t out_cols;
    const float* bias;
    bool add;
};
void multiply_dense(const Product&, const danlu_weight&, Span mine);

// Bytes that an operator which needs it has for all threads and for one, in a step of so many tokens.
struct Scratch {
    int64_t ready = 0, own = 0;
};
Scratch linear_scratch(const danlu_program&, const danlu_op&, const danlu_q4_kernels&, int64_t tokens, int threads);
Scratch experts_scratch(const danlu_program&, const danlu_op&, const danlu_q4_kernels&, int64_t tokens, int threads);

int64_t embed_bytes(const danlu_program&, const danlu_op&);  // of one thread's scratch

// Most rows of a 4-bit matrix of so many rows that one thread has sums of, before they are added.
inline int64_t added_rows(int64_t rows, int threads) {
    return (q4_groups(rows) + threads - 1) / threads * kQ4Rows;
}

inline int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }
