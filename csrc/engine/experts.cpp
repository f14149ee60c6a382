// A mixture of experts: every expert that some token goes through meets all of its tokens in one product.
//
// Rows of experts are sorted by expert, then by token. The order follows from the routing alone, so every thread makes it
// for itself rather than wait for one that does.
#if defined(__x86_64__)
#include <algorithm>
#include <cmath>

#include "engine/simd.h"

namespace {

// Where the rows of every expert of this rank are (the others' rows have no place here): those of expert e are slots [begin[e], begin[e + 1]) of `order`, each the number
// token * used + (which of the token's experts).
struct Deal {
    int64_t experts, used, rows;
    int32_t *begin, *order;
};

int64_t deal_bytes(int64_t experts, int64_t rows) { return rounded((experts + 1 + rows) * int64_t(sizeof(int32_t))); }

Deal deal(const Run& run, const danlu_op& op, int part) {
    const danlu_buffer& route = run.buffer(op.other);
    const int32_t first = op.n[op.code == OP_COLLECT ? 2 : 1];
    Deal d{op.n[0], route.cols / 2, run.step->rows * (route.cols / 2), nullptr, nullptr};
    d.begin = reinterpret_cast<int32_t*>(run.own + part * run.own_bytes);
    d.order = d.begin + d.experts + 1;
    const auto expert = [&](int64_t slot) { return int32_t(route.data[slot / d.used * route.cols + slot % d.used]) - first; };
    const auto ours = [&](int64_t slot) { return expert(slot) >= 0 && expert(slot) < d.experts; };
    std::fill(d.begin, d.begin + d.experts + 1, 0);
    for (int64_t slot = 0; slot < d.rows; slot++)
        if (ours(slot)) d.begin[expert(slot) + 1]++;
    for (int64_t e = 0; e < d.experts; e++) d.begin[e + 1] += d.begin[e];
    for (int64_t slot = 0; slot < d.rows; slot++)
        if (ours(slot)) d.order[d.begin[expert(slot)]++] = int32_t(slot);
    for (int64_t e = d.experts; e > 0; e--) d.begin[e] = d.begin[e - 1];
    d.begin[0] = 0;
    return d;
}

bool small(const Run& run, const danlu_op& op) { return run.weight(op.weight[0]).kind == KIND_Q4; }

// Bytes of `count` rows in the form the products read.
int64_t ready_size(const danlu_q4_kernels& q4, bool is_small, int64_t count, int64_t cols, danlu_precision precision) {
    return rounded(is_small ? q4.ready_bytes(count, cols, precision) : count * cols * int64_t(sizeof(float)));
}

// The most that any way of dealing `rows` rows to `experts` can need.
int64_t most_ready(const danlu_q4_kernels& q4, bool is_small, int64_t rows, int64_t experts, int64_t cols,
                   danlu_precision precision) {
    int64_t each = 0;  // per row, over the counts at which a kernel may change its form
    for (int64_t count = 1; count < 2 * rows; count = count < 16 ? count + 1 : 2 * count)
        each = std::max(each, (ready_size(q4, is_small, count, cols, precision) + count - 1) / count);
    return rows * each + 64 * experts;
}

// Rows [from, to) of expert e's weights times its tokens: into `out`, whose rows are `cols` apart.
struct Job {
    int64_t e, count;
    char* ready;
    Span mine;
};

template <class Do>
void for_experts(const Run& run, const Deal& d, const danlu_op& op, int64_t in_cols, int part, int parts, Do&& each) {
    const bool is_small = small(run, op);
    const int64_t rows = run.weight(op.weight[0]).rows, units = is_small ? q4_groups(rows) : rows;
    int64_t busy = 0, seen = 0;
    for (int64_t e = 0; e < d.experts; e++) busy += d.begin[e + 1] > d.begin[e];
    const Span all = part_of(busy * units, part, parts);
    char* ready = run.ready;
    for (int64_t e = 0; e < d.experts; e++) {
        const int64_t count = d.begin[e + 1] - d.begin[e];
        if (!count) continue;
        const Span mine{std::max<int64_t>(all.from - seen, 0), std::min(all.to - seen, units)};
        if (mine.from < mine.to) each(Job{e, count, ready, mine});
        seen += units;
        ready += ready_size(*run.q4, is_small, count, in_cols, danlu_precision(run.program->precision));
    }
}

// The product of one job with matrix `first + e`, to columns from `out` on; returns its rows of that matrix.
Span times(const Run& run, const danlu_op& op, const Job& job, int32_t first, int64_t in_cols, float* out,
           int64_t out_cols, char* scratch, bool own_columns) {
    const danlu_weight& w = run.weight(first + int32_t(job.e));
    if (!small(run, op)) {
        float* to = own_columns ? out - job.mine.from : out;
        multiply_dense({reinterpret_cast<float*>(job.ready), in_cols, job.count, to, out_cols, nullptr, false}, w, job.mine);
        return job.mine;
    }
    const Span rows{job.mine.from * kQ4Rows, std::min(job.mine.to * kQ4Rows, w.rows)};
    run.q4->multiply(static_cast<const danlu_q4*>(w.data), job.ready, job.count, danlu_precision(run.program->precision),
                     job.mine.from, job.mine.to, nullptr, own_columns ? out - rows.from : out, out_cols, scratch);
    return rows;
}

char* after_deal(const Run& run, const Deal& d, int part) {
    return run.own + part * run.own_bytes + deal_bytes(d.experts, d.rows);
}

}  // namespace

Scratch experts_scratch(const danlu_program& p, const danlu_op& op, const danlu_q4_kernels& q4, int64_t tokens, int threads) {
    const auto precision = danlu_precision(p.precision);
    const danlu_buffer &in = p.buffers[op.source], &out = p.buffers[op.out];
    const int64_t rows = tokens * (p.buffers[op.other].cols / 2);
    const bool is_small = p.weights[op.weight[0]].kind == KIND_Q4;
    const int64_t sums = op.code == OP_COLLECT ? tokens * added_rows(out.cols, threads) * int64_t(sizeof(float)) : 0;
    return {most_ready(q4, is_small, rows, op.n[0], in.cols, precision),
            deal_bytes(op.n[0], rows) + rounded(q4.scratch_bytes(rows, in.cols, precision)) + sums};
}

// softmax over all experts, the greatest `used` of them: out = [their numbers, their weights]; n[0]: weights sum to one.
AVX2 void op_route(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer &out = run.buffer(op.out), &in = run.buffer(op.source);
    const int64_t used = out.cols / 2;
    const Span mine = part_of(run.rows(out), part, parts);
    for (int64_t t = mine.from; t < mine.to; t++) {
        float *x = in.data + t * in.cols, *number = out.data + t * out.cols, *weight = number + used;
        float most = x[0];
        double total = 0, chosen = 0;
        for (int64_t e = 1; e < in.cols; e++) most = std::max(most, x[e]);
        for (int64_t e = 0; e < in.cols; e++) total += x[e] = std::exp(x[e] - most);
        for (int64_t a = 0; a < used; a++) {
            int64_t best = -1;
            for (int64_t e = 0; e < in.cols; e++)
                if (!std::isinf(x[e]) && (best < 0 || !(x[e] <= x[best]))) best = e;  // what is no number is taken first
            number[a] = float(best);
            weight[a] = float(x[best] / total);
            chosen += weight[a];
            x[best] = -INFINITY;
        }
        for (int64_t a = 0; op.n[0] && a < used; a++) weight[a] = float(weight[a] / chosen);
    }
}

void prepare_experts(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer& in = run.buffer(op.source);
    const Deal d = deal(run, op, part);
    const auto precision = danlu_precision(run.program->precision);
    const Span mine = part_of(d.begin[d.experts], part, parts);
    const bool is_small = small(run, op), sorted = op.code == OP_COLLECT;
    char* ready = run.ready;
    for (int64_t e = 0; e < d.experts; e++) {
        const int64_t begin = d.begin[e], count = d.begin[e + 1] - begin;
        for (int64_t i = std::max(mine.from, begin); i < std::min<int64_t>(mine.to, begin + count); i++) {
            const int64_t row = sorted ? i : d.order[i] / d.used, t = i - begin;
            const float* x = in.data + row * in.cols;
            if (is_small)  // `prepare` finds row t at x + t * stride
                run.q4->prepare(x - t * in.cols, in.cols, count, t, t + 1, in.cols, precision, ready);
            else
                std::memcpy(reinterpret_cast<float*>(ready) + t * in.cols, x, size_t(in.cols) * sizeof(float));
        }
        if (count) ready += ready_size(*run.q4, is_small, count, in.cols, precision);
    }
}

// out, rows sorted by expert = the tokens' rows times their experts' first matrices, and beside them their second ones.
void op_experts(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer &out = run.buffer(op.out), &in = run.buffer(op.source);
    const Deal d = deal(run, op, part);
    char* scratch = after_deal(run, d, part);
    for_experts(run, d, op, in.cols, part, parts, [&](const Job& job) {
        float* to = out.data + d.begin[job.e] * out.cols;
        for (int i = 0; i < 2; i++)
            times(run, op, job, op.weight[i], in.cols, to + i * out.cols / 2, out.cols, scratch, false);
    });
}

// out += (n[1]: =) for every token the sum over its experts of weight * (expert's matrix times the expert's row). A thread owns
// rows of that matrix of one expert after the other, which other threads' sums may go to as well: so it owns columns of
// out instead, the same of every expert.
AVX2 void op_collect(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer &out = run.buffer(op.out), &in = run.buffer(op.source), &route = run.buffer(op.other);
    const Deal d = deal(run, op, part);
    const bool is_small = small(run, op);
    const auto precision = danlu_precision(run.program->precision);
    const Span mine = part_of(is_small ? q4_groups(out.cols) : out.cols, part, parts);
    if (mine.from == mine.to) return;
    const int64_t width = is_small ? std::min(mine.to * kQ4Rows, out.cols) - mine.from * kQ4Rows : mine.to - mine.from;
    char *scratch = after_deal(run, d, part), *ready = run.ready;
    auto* sums = reinterpret_cast<float*>(scratch + rounded(run.q4->scratch_bytes(d.rows, in.cols, precision)));
    const int64_t first = is_small ? mine.from * kQ4Rows : mine.from;
    for (int64_t t = 0; op.n[1] && t < run.rows(out); t++) std::fill_n(out.data + t * out.cols + first, width, 0.0f);
    for (int64_t e = 0; e < d.experts; e++) {
        const int64_t begin = d.begin[e], count = d.begin[e + 1] - begin;
        if (!count) continue;
        const Span rows = times(run, op, {e, count, ready, mine}, op.weight[0], in.cols, sums, width, scratch, true);
        for (int64_t i = 0; i < count; i++) {
            const int64_t slot = d.order[begin + i], t = slot / d.used;
            const float weight = route.data[t * route.cols + d.used + slot % d.used];
            float* to = out.data + t * out.cols + rows.from;
            for (int64_t n = 0; n < rows.to - rows.from; n++) to[n] += weight * sums[i * width + n];
        }
        ready += ready_size(*run.q4, is_small, count, in.cols, precision);
    }
}

// out += sigmoid(first column of other) * source.
AVX2 void op_blend(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer &out = run.buffer(op.out), &in = run.buffer(op.source), &gate = run.buffer(op.other);
    const Span mine = part_of(run.rows(out), part, parts);
    for (int64_t t = mine.from; t < mine.to; t++) {
        const float share = 1.0f / (1.0f + std::exp(-gate.data[t * gate.cols]));
        for (int64_t d = 0; d < out.cols; d++) out.data[t * out.cols + d] += share * in.data[t * in.cols + d];
    }
}
#endif
