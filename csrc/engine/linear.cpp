// One or several matrices times the same rows; a thread takes a run of the outputs.
//
// Four weight rows meet three input rows in twelve accumulators along the inner axis: 7 loads for 12 multiplications, so
// the multipliers and not the loads are the limit. The order of one sum does not depend on how many rows there are, so a
// token's numbers do not depend on who else is in the batch.
#if defined(__x86_64__)
#include <algorithm>

#include "engine/simd.h"

namespace {

constexpr int64_t kInner = 2048;  // columns at a time when rows are many: 24 KiB of inputs, inside a first-level cache
constexpr int64_t kOuter = 32;    // weight rows that stay in the second-level cache while all input rows pass

template <int M, int N, class T>
AVX2 inline void tile(const Product& p, const T* w, int64_t cols, int64_t m, int64_t n, Span inner) {
    __m256 sum[M][N];
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) sum[i][j] = _mm256_setzero_ps();
    const float* x = p.x + m * p.x_cols;
    const T* row = w + n * cols;
    int64_t k = inner.from;
    for (; k + 8 <= inner.to; k += 8) {
        __m256 in[M];
        for (int i = 0; i < M; i++) in[i] = load8(x + i * p.x_cols + k);
        for (int j = 0; j < N; j++) {
            const __m256 weight = load8(row + j * cols + k);
            for (int i = 0; i < M; i++) sum[i][j] = _mm256_fmadd_ps(weight, in[i], sum[i][j]);
        }
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            float* out = p.out + (m + i) * p.out_cols + n + j;
            float total = sum8(sum[i][j]);
            for (int64_t rest = k; rest < inner.to; rest++) total += load1(row + j * cols + rest) * x[i * p.x_cols + rest];
            const bool first = inner.from == 0;
            const float start = !first || p.add ? *out : 0.0f;
            *out = start + total + (first && p.bias ? p.bias[n + j] : 0.0f);
        }
}

template <int M, class T>
AVX2 void strip(const Product& p, const T* w, int64_t cols, int64_t m, Span outer, Span inner) {
    int64_t n = outer.from;
    for (; n + 4 <= outer.to; n += 4) tile<M, 4>(p, w, cols, m, n, inner);
    for (; n < outer.to; n++) tile<M, 1>(p, w, cols, m, n, inner);
}

template <class T>
AVX2 void rows_times(const Product& p, const danlu_weight& w, Span mine) {
    const T* data = static_cast<const T*>(w.data);
    for (int64_t k = 0; k < w.cols; k += kInner) {
        const Span inner{k, std::min(w.cols, k + kInner)};
        for (int64_t n = mine.from; n < mine.to; n += kOuter) {
            const Span outer{n, std::min(mine.to, n + kOuter)};
            int64_t m = 0;
            for (; m + 3 <= p.x_rows; m += 3) strip<3>(p, data, w.cols, m, outer, inner);
            if (p.x_rows - m == 2) strip<2>(p, data, w.cols, m, outer, inner);
            if (p.x_rows - m == 1) strip<1>(p, data, w.cols, m, outer, inner);
        }
    }
}

}  // namespace

AVX2 void multiply_dense(const Product& p, const danlu_weight& w, Span mine) {
    if (w.kind == KIND_FP32) rows_times<float>(p, w, mine);
    if (w.kind == KIND_BF16) rows_times<Bf16>(p, w, mine);
    if (w.kind == KIND_FP16) rows_times<Fp16>(p, w, mine);
}

namespace {

// 4-bit weights write their sums; what is to be added, as the second 4 bits of 8 are, goes through the thread's own
// scratch.
void multiply_q4(const Run& run, const Product& p, const danlu_weight& w, int part, int parts) {
    const auto* matrix = static_cast<const danlu_q4*>(w.data);
    const auto precision = danlu_precision(run.program->precision);
    const Span groups = part_of(q4_groups(w.rows), part, parts);
    if (groups.from == groups.to) return;
    char* scratch = run.own + part * run.own_bytes;
    auto* sums = reinterpret_cast<float*>(scratch + rounded(run.q4->scratch_bytes(p.x_rows, w.cols, precision)));
    const int64_t from = groups.from * kQ4Rows, to = std::min(groups.to * kQ4Rows, w.rows), width = to - from;
    for (bool add = p.add; matrix; matrix = matrix->rest, add = true) {
        const float* bias = matrix == w.data ? p.bias : nullptr;
        run.q4->multiply(matrix, run.ready, p.x_rows, precision, groups.from, groups.to, bias, add ? sums - from : p.out,
                         add ? width : p.out_cols, scratch);
        for (int64_t m = 0; add && m < p.x_rows; m++)
            for (int64_t n = 0; n < width; n++) p.out[m * p.out_cols + from + n] += sums[m * width + n];
    }
}

}  // namespace

bool has_rest(const danlu_weight& w) { return w.kind == KIND_Q4 && static_cast<const danlu_q4*>(w.data)->rest; }

bool needs_ready(const danlu_program& program, const danlu_op& op) {
    if (op.code == OP_EXPERTS || op.code == OP_COLLECT) return true;
    if (op.code != OP_LINEAR) return false;
    for (int32_t i : op.weight)
        if (i >= 0 && program.weights[i].kind == KIND_Q4) return true;
    return false;
}

Scratch linear_scratch(const danlu_program& p, const danlu_op& op, const danlu_q4_kernels& q4, int64_t tokens, int threads) {
    const auto precision = danlu_precision(p.precision);
    const danlu_buffer& in = p.buffers[op.source];
    const int64_t rows = tokens * in.times;
    bool add = op.n[0] != 0;
    for (int32_t i : op.weight)
        if (i >= 0) add |= has_rest(p.weights[i]);
    const int64_t sums = add ? rows * added_rows(p.buffers[op.out].cols, threads) * int64_t(sizeof(float)) : 0;
    return {q4.ready_bytes(rows, in.cols, precision), rounded(q4.scratch_bytes(rows, in.cols, precision)) + sums};
}

void op_prepare(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer& in = run.buffer(op.source);
    const Span mine = part_of(run.rows(in), part, parts);
    if (mine.from < mine.to)
        run.q4->prepare(in.data, in.cols, run.rows(in), mine.from, mine.to, in.cols,
                        danlu_precision(run.program->precision), run.ready);
}

AVX2 void op_linear(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer &out = run.buffer(op.out), &in = run.buffer(op.source);
    if (run.rows(in) == 0) return;
    int64_t column = op.n[1];
    for (int i = 0; i < 3 && op.weight[i] >= 0; i++) {
        const danlu_weight& w = run.weight(op.weight[i]);
        const auto* bias = op.bias[i] < 0 ? nullptr : static_cast<const float*>(run.weight(op.bias[i]).data);
        const Product p{in.data, in.cols, run.rows(in), out.data + column, out.cols, bias, op.n[0] != 0};
        const Span mine = part_of(w.rows, part, parts);
        if (w.kind == KIND_Q4)
            multiply_q4(run, p, w, part, parts);
        else
            multiply_dense(p, w, mine);
        column += w.rows;
    }
}
#endif
