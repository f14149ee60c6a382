// Each token's predecessor in its own sequence, for convolutions over time of two taps (Yuan 2.0's local filter).
//
// The first token of a piece finds its predecessor's row where that token's page keeps it; the newest token of every page
// leaves its own there, so that a sequence can go on from any whole page.
#if defined(__x86_64__)
#include <algorithm>

#include "engine/simd.h"

namespace {

template <class T>
AVX2 void past(const Run& run, const danlu_op& op, Span mine) {
    const danlu_buffer &out = run.buffer(op.out), &in = run.buffer(op.source);
    const int32_t page = run.program->kv.page;
    T* edges = static_cast<T*>(run.program->kv.edges[2 * op.n[0] + op.n[1]]);
    const int64_t cols = in.cols;
    for (int64_t t = mine.from; t < mine.to; t++) {
        const danlu_piece& piece = run.step->pieces[run.piece_of[t]];
        const int32_t position = run.position(t);
        float* to = out.data + t * cols;
        if (position == 0) {
            std::fill(to, to + cols, 0.0f);
        } else if (t == piece.row) {
            const T* kept = edges + run.step->pages[piece.pages + (position - 1) / page] * cols;
            for (int64_t d = 0; d < cols; d++) to[d] = load1(kept + d);
        } else {
            std::memcpy(to, in.data + (t - 1) * cols, size_t(cols) * sizeof(float));
        }
    }
    // After the reading: the page of a piece's first token may be the one its predecessor is kept in.
    for (int64_t t = mine.from; t < mine.to; t++) {
        const danlu_piece& piece = run.step->pieces[run.piece_of[t]];
        const int32_t position = run.position(t);
        if ((position + 1) % page != 0 && t != piece.row + piece.count - 1) continue;
        T* kept = edges + run.step->pages[piece.pages + position / page] * cols;
        for (int64_t d = 0; d < cols; d++) store1(kept + d, in.data[t * cols + d]);
    }
}

}  // namespace

// A piece's rows stay with one thread: what the first reads, the last may write over.
AVX2 void op_past(const Run& run, const danlu_op& op, int part, int parts) {
    for (int32_t i = part; i < run.step->piece_count; i += parts) {
        const Span mine{run.step->pieces[i].row, run.step->pieces[i].row + run.step->pieces[i].count};
        if (run.program->kv.kind == KIND_FP32) past<float>(run, op, mine);
        if (run.program->kv.kind == KIND_BF16 || run.program->kv.kind == KIND_INT8) past<Bf16>(run, op, mine);
        if (run.program->kv.kind == KIND_FP16) past<Fp16>(run, op, mine);
    }
}
#endif
