// Attention over pages, read in place: grouped queries, causal, with or without a sliding window.
//
// A piece of work is one group of query heads (those that share keys and values) for some tokens of one sequence. Keys and
// values come 64 at a time as floats into the thread's own scratch, keys turned so that 16 of them meet 6 queries in twelve
// accumulators; the softmax is kept up block by block (Milakov & Gimelshein 2018; FlashAttention, Dao 2022).
#if defined(__x86_64__)
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "engine/simd.h"

namespace {

constexpr int64_t kKeys = 64;      // keys of a block
constexpr int64_t kQueries = 128;  // most queries (tokens x heads of a group) of a block, unless one token has more
constexpr float kNothing = -1e30f; // below every score; finite, so that subtracting it gives a number

int64_t padded(int64_t size) { return (size + 15) / 16 * 16; }
int64_t most_queries(const danlu_program& p) {
    int64_t group = 1;
    for (int32_t i = 0; i < p.count; i++)
        if (p.ops[i].code == OP_ATTEND) group = std::max<int64_t>(group, p.ops[i].n[1] / p.kv.heads);
    return std::max(kQueries / group, int64_t(1)) * group;
}

struct Tiles {
    float *query, *key, *value, *score, *sum;  // [M][K], [K][64], [64][Kp], [M][64], [M][Kp]
    float *most, *total;                       // [M]
};

AVX2 inline void transpose8(__m256* r) {
    __m256 a[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    __m256 b[8];
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}

// Numbers of a page as what they are worth; only those in 8 bits have a unit.
template <class T>
AVX2 inline __m256 worth(__m256 numbers, float unit) {
    return std::is_same<T, Int8>::value ? _mm256_mul_ps(numbers, _mm256_set1_ps(unit)) : numbers;
}

// Keys [first, first + count) of a group, turned: to[d][j].
template <class T>
AVX2 void turn_keys(const Run& run, const danlu_piece& piece, const T* keys, int64_t group, int64_t first, int64_t count,
                    float* to) {
    const int64_t size = run.program->kv.size, head = head_items<T>(size), width = run.program->kv.heads * head;
    for (int64_t j = 0; j < count; j += 8) {
        const T* row[8];
        float unit[8];
        for (int64_t i = 0; i < 8; i++) {  // beyond the last key, the last: a finite number, masked later
            row[i] = keys + run.slot(piece, first + std::min(j + i, count - 1)) * width + group * head;
            unit[i] = unit_of(row[i], size);
        }
        int64_t d = 0;
        for (; d + 8 <= size; d += 8) {
            __m256 r[8];
            for (int i = 0; i < 8; i++) r[i] = worth<T>(load8(row[i] + d), unit[i]);
            transpose8(r);
            for (int i = 0; i < 8; i++) _mm256_storeu_ps(to + (d + i) * kKeys + j, r[i]);
        }
        for (; d < size; d++)
            for (int i = 0; i < 8; i++) to[d * kKeys + j + i] = load1(row[i] + d) * unit[i];
    }
}

template <class T>
AVX2 void lay_values(const Run& run, const danlu_piece& piece, const T* values, int64_t group, int64_t first, int64_t count,
                     float* to) {
    const int64_t size = run.program->kv.size, room = padded(size), head = head_items<T>(size);
    for (int64_t j = 0; j < count; j++) {
        const T* row = values + (run.slot(piece, first + j) * run.program->kv.heads + group) * head;
        const float unit = unit_of(row, size);
        int64_t d = 0;
        for (; d + 8 <= size; d += 8) _mm256_storeu_ps(to + j * room + d, worth<T>(load8(row + d), unit));
        for (; d < size; d++) to[j * room + d] = load1(row + d) * unit;
        for (; d < room; d++) to[j * room + d] = 0.0f;
    }
}

// out (M, columns) += or = a (M, inner) @ b (inner, columns); columns a multiple of 16, rows of out and b `stride` apart.
template <int M>
AVX2 inline void times(const float* a, int64_t a_cols, int64_t inner, const float* b, int64_t stride, int64_t columns,
                       float* out, bool add) {
    for (int64_t c = 0; c < columns; c += 16) {
        __m256 sum[M][2];
        for (int i = 0; i < M; i++)
            for (int j = 0; j < 2; j++) sum[i][j] = add ? load8(out + i * stride + c + 8 * j) : _mm256_setzero_ps();
        for (int64_t k = 0; k < inner; k++) {
            const __m256 low = load8(b + k * stride + c), high = load8(b + k * stride + c + 8);
            for (int i = 0; i < M; i++) {
                const __m256 x = _mm256_broadcast_ss(a + i * a_cols + k);
                sum[i][0] = _mm256_fmadd_ps(x, low, sum[i][0]);
                sum[i][1] = _mm256_fmadd_ps(x, high, sum[i][1]);
            }
        }
        for (int i = 0; i < M; i++)
            for (int j = 0; j < 2; j++) _mm256_storeu_ps(out + i * stride + c + 8 * j, sum[i][j]);
    }
}

AVX2 void product(const float* a, int64_t a_cols, int64_t rows, int64_t inner, const float* b, int64_t stride,
                  int64_t columns, float* out, bool add) {
    int64_t m = 0;
    for (; m + 6 <= rows; m += 6) times<6>(a + m * a_cols, a_cols, inner, b, stride, columns, out + m * stride, add);
    for (; m < rows; m++) times<1>(a + m * a_cols, a_cols, inner, b, stride, columns, out + m * stride, add);
}

// Scores of one query to weights e^(score - most), the sums it had brought to the new greatest score.
AVX2 void soften(float* score, Span seen, float& most, float& total, float* sum, int64_t room) {
    for (int64_t j = 0; j < seen.from; j++) score[j] = -INFINITY;
    for (int64_t j = std::max<int64_t>(seen.to, 0); j < kKeys; j++) score[j] = -INFINITY;
    __m256 top = load8(score);
    for (int64_t j = 8; j < kKeys; j += 8) top = _mm256_max_ps(top, load8(score + j));
    const float now = std::max(most, max8(top));
    const __m256 base = _mm256_set1_ps(now);
    __m256 added = _mm256_setzero_ps();
    for (int64_t j = 0; j < kKeys; j += 8) {
        const __m256 weight = exp8(_mm256_sub_ps(load8(score + j), base));
        _mm256_storeu_ps(score + j, weight);
        added = _mm256_add_ps(added, weight);
    }
    if (now != most) {
        const float shrink = _mm256_cvtss_f32(exp8(_mm256_set1_ps(most - now)));
        total *= shrink;
        for (int64_t d = 0; d < room; d += 8)
            _mm256_storeu_ps(sum + d, _mm256_mul_ps(load8(sum + d), _mm256_set1_ps(shrink)));
        most = now;
    }
    total += sum8(added);
}

// One group of heads for tokens [from, to) of a piece.
template <class T>
AVX2 void attend(const Run& run, const danlu_op& op, const danlu_piece& piece, int64_t group, Span tokens, const Tiles& s) {
    const danlu_buffer &out = run.buffer(op.out), &in = run.buffer(op.source);
    const danlu_kv& kv = run.program->kv;
    const int64_t size = kv.size, room = padded(size), each = op.n[1] / kv.heads, window = op.n[3];
    const int64_t count = (tokens.to - tokens.from) * each;
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = piece.row + tokens.from + i / each;
        const float* q = in.data + row * in.cols + op.n[0] + (group * each + i % each) * size;
        for (int64_t d = 0; d < size; d++) s.query[i * size + d] = q[d] * op.scale;
        s.most[i] = kNothing, s.total[i] = 0.0f;
    }
    std::memset(s.sum, 0, size_t(count * room) * sizeof(float));
    const int64_t least = piece.start + tokens.from, last = piece.start + tokens.to - 1;
    const int64_t begin = window ? std::max<int64_t>(0, least - window + 1) / kKeys * kKeys : 0;
    for (int64_t first = begin; first <= last; first += kKeys) {
        const int64_t keys = std::min(kKeys, last + 1 - first);
        turn_keys(run, piece, static_cast<const T*>(kv.keys[op.n[2]]), group, first, keys, s.key);
        lay_values(run, piece, static_cast<const T*>(kv.values[op.n[2]]), group, first, keys, s.value);
        product(s.query, size, count, size, s.key, kKeys, (keys + 15) / 16 * 16, s.score, false);
        for (int64_t i = 0; i < count; i++) {
            const int64_t position = least + i / each, oldest = window ? position - window + 1 : 0;
            const Span seen{std::min(std::max<int64_t>(oldest - first, 0), kKeys), std::min(position + 1 - first, keys)};
            soften(s.score + i * kKeys, seen, s.most[i], s.total[i], s.sum + i * room, room);
        }
        product(s.score, kKeys, count, keys, s.value, room, room, s.sum, true);
    }
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = piece.row + tokens.from + i / each;
        float* to = out.data + row * out.cols + (group * each + i % each) * size;
        for (int64_t d = 0; d < size; d++) to[d] = s.sum[i * room + d] / s.total[i];
    }
}

Tiles tiles_of(const Run& run, int part) {
    const int64_t most = most_queries(*run.program), size = run.program->kv.size, room = padded(size);
    Tiles s;
    s.query = reinterpret_cast<float*>(run.own + part * run.own_bytes);
    s.key = s.query + most * size;
    s.value = s.key + size * kKeys;
    s.score = s.value + kKeys * room;
    s.sum = s.score + most * kKeys;
    s.most = s.sum + most * room;
    s.total = s.most + most;
    return s;
}

}  // namespace

int64_t attend_bytes(const danlu_program& p) {
    const int64_t most = most_queries(p), size = p.kv.size, room = padded(size);
    return (most * (size + kKeys + room + 2) + size * kKeys + kKeys * room) * int64_t(sizeof(float));
}

void op_attend(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_kv& kv = run.program->kv;
    const Tiles tiles = tiles_of(run, part);
    const int64_t at_once = std::max(kQueries / (op.n[1] / kv.heads), int64_t(1));
    int64_t work = 0;  // dealt out in turn: later tokens see more keys, so neighbours cost alike
    for (int32_t i = 0; i < run.step->piece_count; i++) {
        const danlu_piece& piece = run.step->pieces[i];
        for (int64_t from = 0; from < piece.count; from += at_once)
            for (int64_t group = 0; group < kv.heads; group++) {
                if (work++ % parts != part) continue;
                const Span tokens{from, std::min<int64_t>(piece.count, from + at_once)};
                if (kv.kind == KIND_FP32) attend<float>(run, op, piece, group, tokens, tiles);
                if (kv.kind == KIND_BF16) attend<Bf16>(run, op, piece, group, tokens, tiles);
                if (kv.kind == KIND_FP16) attend<Fp16>(run, op, piece, group, tokens, tiles);
                if (kv.kind == KIND_INT8) attend<Int8>(run, op, piece, group, tokens, tiles);
            }
    }
}
#endif
