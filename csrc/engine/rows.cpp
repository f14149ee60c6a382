// Operators that treat every row for itself; a thread takes a run of rows.
#if defined(__x86_64__)
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "engine/simd.h"
#include "q4/files.h"

namespace {

template <class T>
AVX2 void widen(const T* from, float* to, int64_t count) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, load8(from + i));
    for (; i < count; i++) to[i] = load1(from + i);
}

// x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019).
AVX2 void normed(const float* x, const float* weight, float eps, int64_t count, float* out) {
    __m256 sum = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) sum = _mm256_fmadd_ps(load8(x + i), load8(x + i), sum);
    double square = sum8(sum);
    for (; i < count; i++) square += double(x[i]) * x[i];
    const float scale = float(1.0 / std::sqrt(square / double(count) + eps));
    const __m256 scales = _mm256_set1_ps(scale);
    for (i = 0; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_mul_ps(load8(x + i), scales), load8(weight + i)));
    for (; i < count; i++) out[i] = x[i] * scale * weight[i];
}

template <class T>
AVX2 void narrow(const float* from, void* base, int64_t at, int64_t count) {
    T* to = static_cast<T*>(base) + at;
    for (int64_t i = 0; i < count; i++) store1(to + i, from[i]);
}

// A head in 8 bits: whole numbers of a unit, which is the largest magnitude / 127 rounded up to bf16. What is not finite
// makes the unit not a number, and with it whatever is attended to.
AVX2 void pack(const float* from, Int8* to, int64_t size) {
    float most = 0;
    bool finite = true;
    for (int64_t i = 0; i < size; i++) {
        most = std::max(most, std::fabs(from[i]));
        finite &= std::fabs(from[i]) <= FLT_MAX;
    }
    const float least = most / 127.0f;
    uint32_t bits;
    std::memcpy(&bits, &least, 4);
    const Bf16 unit{finite ? uint16_t((bits + 0xffff) >> 16) : uint16_t(0x7fc0)};
    const float worth = load1(&unit);
    for (int64_t i = 0; i < size; i++) to[i].value = finite && most > 0 ? int8_t(std::lrintf(from[i] / worth)) : 0;
    std::memcpy(to + size, &unit, sizeof unit);
}

void pack_heads(const float* from, void* base, int64_t slot, const danlu_kv& kv) {
    Int8* to = static_cast<Int8*>(base) + slot * kv.heads * head_items<Int8>(kv.size);
    for (int64_t h = 0; h < kv.heads; h++) pack(from + h * kv.size, to + h * head_items<Int8>(kv.size), kv.size);
}

// One row of a 4-bit table; scratch is for the absmax of its group, then for a row to add.
void unpacked(const danlu_q4& w, int64_t row, float* scratch, float* out) {
    q4_absmax(w, row / kQ4Rows, 0, q4_blocks(w.cols), scratch);
    q4_row(w, row, scratch, out);
    if (!w.rest) return;
    float* more = scratch + q4_blocks(w.cols) * kQ4Rows;
    q4_absmax(*w.rest, row / kQ4Rows, 0, q4_blocks(w.cols), scratch);
    q4_row(*w.rest, row, scratch, more);
    for (int64_t k = 0; k < w.cols; k++) out[k] += more[k];
}

}  // namespace

int64_t embed_bytes(const danlu_program& p, const danlu_op& op) {
    const danlu_weight& w = p.weights[op.weight[0]];
    if (w.kind != KIND_Q4) return 0;
    return (q4_blocks(w.cols) * kQ4Rows + (has_rest(w) ? w.cols : 0)) * int64_t(sizeof(float));
}

AVX2 void op_embed(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer& out = run.buffer(op.out);
    const danlu_weight& w = run.weight(op.weight[0]);
    const Span mine = part_of(run.rows(out), part, parts);
    for (int64_t t = mine.from; t < mine.to; t++) {
        const int64_t at = run.step->tokens[t] * w.cols;
        float* to = out.data + t * out.cols;
        if (w.kind == KIND_Q4)
            unpacked(*static_cast<const danlu_q4*>(w.data), run.step->tokens[t],
                     reinterpret_cast<float*>(run.own + part * run.own_bytes), to);
        if (w.kind == KIND_FP32) widen(static_cast<const float*>(w.data) + at, to, w.cols);
        if (w.kind == KIND_BF16) widen(static_cast<const Bf16*>(w.data) + at, to, w.cols);
        if (w.kind == KIND_FP16) widen(static_cast<const Fp16*>(w.data) + at, to, w.cols);
    }
}

void op_take(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer &out = run.buffer(op.out), &in = run.buffer(op.source);
    const Span mine = part_of(run.rows(out), part, parts);
    for (int64_t r = mine.from; r < mine.to; r++)
        std::memcpy(out.data + r * out.cols, in.data + run.step->wanted[r] * in.cols, size_t(in.cols) * sizeof(float));
}

AVX2 void op_norm(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer &out = run.buffer(op.out), &in = run.buffer(op.source);
    const auto* weight = static_cast<const float*>(run.weight(op.weight[0]).data);
    const Span mine = part_of(run.rows(out), part, parts);
    for (int64_t t = mine.from; t < mine.to; t++)
        normed(in.data + t * in.cols, weight, op.scale, in.cols, out.data + t * out.cols);
}

AVX2 void op_head_norm(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer& out = run.buffer(op.out);
    const auto* weight = static_cast<const float*>(run.weight(op.weight[0]).data);
    const int64_t column = op.n[0], heads = op.n[1], size = op.n[2];
    const Span mine = part_of(run.rows(out), part, parts);
    for (int64_t t = mine.from; t < mine.to; t++)
        for (int64_t h = 0; h < heads; h++) {
            float* x = out.data + t * out.cols + column + h * size;
            normed(x, weight, op.scale, size, x);
        }
}

void op_angles(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer& out = run.buffer(op.out);
    const auto* frequency = static_cast<const float*>(run.weight(op.weight[0]).data);
    const int64_t half = out.cols / 2;
    const Span mine = part_of(run.rows(out), part, parts);
    for (int64_t t = mine.from; t < mine.to; t++) {
        float* to = out.data + t * out.cols;
        const float position = float(run.position(t));
        for (int64_t i = 0; i < half; i++) {
            to[i] = std::cos(position * frequency[i]);
            to[half + i] = std::sin(position * frequency[i]);
        }
    }
}

AVX2 void op_rope(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer &out = run.buffer(op.out), &angles = run.buffer(op.other);
    const int64_t column = op.n[0], heads = op.n[1], size = op.n[2], half = size / 2;
    const Span mine = part_of(run.rows(out), part, parts);
    for (int64_t t = mine.from; t < mine.to; t++) {
        const float *cosine = angles.data + t * angles.cols, *sine = cosine + half;
        for (int64_t h = 0; h < heads; h++) {
            float *a = out.data + t * out.cols + column + h * size, *b = a + half;
            int64_t i = 0;
            for (; i + 8 <= half; i += 8) {
                const __m256 c = load8(cosine + i), s = load8(sine + i), x = load8(a + i), y = load8(b + i);
                _mm256_storeu_ps(a + i, _mm256_fmsub_ps(x, c, _mm256_mul_ps(y, s)));
                _mm256_storeu_ps(b + i, _mm256_fmadd_ps(y, c, _mm256_mul_ps(x, s)));
            }
            for (; i < half; i++) {
                const float x = a[i], y = b[i];
                a[i] = x * cosine[i] - y * sine[i];
                b[i] = y * cosine[i] + x * sine[i];
            }
        }
    }
}

AVX2 void op_store(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer& in = run.buffer(op.source);
    const danlu_kv& kv = run.program->kv;
    const int64_t width = int64_t(kv.heads) * kv.size;
    const Span mine = part_of(run.rows(in), part, parts);
    for (int64_t t = mine.from; t < mine.to; t++) {
        const int64_t slot = run.slot(run.step->pieces[run.piece_of[t]], run.position(t)), at = slot * width;
        for (int which = 0; which < 2; which++) {
            const float* from = in.data + t * in.cols + op.n[which];
            void* base = (which ? kv.values : kv.keys)[op.n[2]];
            if (kv.kind == KIND_FP32) narrow<float>(from, base, at, width);
            if (kv.kind == KIND_BF16) narrow<Bf16>(from, base, at, width);
            if (kv.kind == KIND_FP16) narrow<Fp16>(from, base, at, width);
            if (kv.kind == KIND_INT8) pack_heads(from, base, slot, kv);
        }
    }
}

AVX2 void op_gate(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer &out = run.buffer(op.out), &in = run.buffer(op.source);
    const Span mine = part_of(run.rows(out), part, parts);
    for (int64_t t = mine.from; t < mine.to; t++) {
        const float *gate = in.data + t * in.cols + op.n[0], *up = in.data + t * in.cols + op.n[1];
        float* to = out.data + t * out.cols;
        int64_t i = 0;
        const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
        for (; i + 8 <= out.cols; i += 8) {
            const __m256 x = load8(gate + i), less = exp8(_mm256_xor_ps(x, sign));
            _mm256_storeu_ps(to + i, _mm256_mul_ps(_mm256_div_ps(x, _mm256_add_ps(one, less)), load8(up + i)));
        }
        for (; i < out.cols; i++) to[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
    }
}

void op_add(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer &out = run.buffer(op.out), &in = run.buffer(op.source);
    const Span mine = part_of(run.rows(out), part, parts);
    for (int64_t i = mine.from * out.cols; i < mine.to * out.cols; i++) out.data[i] += in.data[i];
}
#endif
