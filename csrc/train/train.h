// The row operators of a training step: RMS norm, gated SiLU, rotary positions, forward and backward; one thread.
//
// Written once as plain loops over kLanes independent sums, which a compiler turns into registers of any width; each
// instruction set's file includes it with its own target, so that no function of it is shared between them.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/status.h"

#ifndef DANLU_TARGET
#define DANLU_TARGET
#endif
#define DANLU_INLINE static inline __attribute__((always_inline)) DANLU_TARGET

namespace {

constexpr int kLanes = 8;

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

DANLU_INLINE Floats load(const float* from) {
    Floats found;
    std::memcpy(&found, from, sizeof found);
    return found;
}

DANLU_INLINE void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }

// 1 / (1 + exp(-x)) to 3 ulp: exp is 2^n * p(r), the polynomial of Cephes, for arguments held within +-87.
DANLU_INLINE Floats sigmoid(Floats x) {
    Floats y = -x;
    y = y < -87.0f ? y * 0.0f - 87.0f : y;
    y = y > 87.0f ? y * 0.0f + 87.0f : y;
    const Ints n = __builtin_convertvector(y * 1.44269504f + (y < 0.0f ? y * 0.0f - 0.5f : y * 0.0f + 0.5f), Ints);
    const Floats whole = __builtin_convertvector(n, Floats);
    const Floats r = (y - whole * 0.693359375f) - whole * -2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Ints bits = (n + 127) << 23;
    return 1.0f / (1.0f + p * reinterpret_cast<const Floats&>(bits));
}

DANLU_INLINE float total(const float* lanes) {
    float sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += lanes[i];
    return sum;
}

// h = x * rstd * w with rstd = (mean(x^2) + eps)^-1/2, of every row of x (rows, columns).
DANLU_INLINE int norm_rows(const float* x, const float* w, float* h, float* rstd, int64_t rows, int64_t columns, float eps) {
    if (rows < 0 || columns <= 0 || columns % kLanes) return DANLU_BAD_SIZE;
    for (int64_t row = 0; row < rows; ++row, x += columns, h += columns) {
        float squares[kLanes] = {};
        for (int64_t c = 0; c < columns; c += kLanes)
            for (int i = 0; i < kLanes; ++i) squares[i] += x[c + i] * x[c + i];
        const float scale = 1.0f / std::sqrt(total(squares) / static_cast<float>(columns) + eps);
        rstd[row] = scale;
        for (int64_t c = 0; c < columns; ++c) h[c] = x[c] * scale * w[c];
    }
    return DANLU_OK;
}

// dx = other + rstd * (g w - x rstd^2 mean(g w x)), dw += sum over rows of g x rstd. `other` is the residual's gradient.
DANLU_INLINE int norm_rows_back(const float* x, const float* w, const float* rstd, const float* g, const float* other,
                                float* dx, float* dw, int64_t rows, int64_t columns) {
    if (rows < 0 || columns <= 0 || columns % kLanes) return DANLU_BAD_SIZE;
    for (int64_t row = 0; row < rows; ++row, x += columns, g += columns, other += columns, dx += columns) {
        float products[kLanes] = {};
        for (int64_t c = 0; c < columns; c += kLanes)
            for (int i = 0; i < kLanes; ++i) products[i] += g[c + i] * w[c + i] * x[c + i];
        const float scale = rstd[row], mean = total(products) * scale * scale / static_cast<float>(columns);
        for (int64_t c = 0; c < columns; ++c) {
            dx[c] = other[c] + scale * (g[c] * w[c] - x[c] * mean);
            dw[c] += g[c] * x[c] * scale;
        }
    }
    return DANLU_OK;
}

// p = silu(a) * b, of rows [a | b] of 2 * columns.
DANLU_INLINE int gate_rows(const float* ab, float* p, int64_t rows, int64_t columns) {
    if (rows < 0 || columns <= 0 || columns % kLanes) return DANLU_BAD_SIZE;
    for (int64_t row = 0; row < rows; ++row, ab += 2 * columns, p += columns) {
        const float *a = ab, *b = ab + columns;
        for (int64_t c = 0; c < columns; c += kLanes) {
            const Floats left = load(a + c);
            store(p + c, left * sigmoid(left) * load(b + c));
        }
    }
    return DANLU_OK;
}

// The gradient of gate_rows with respect to [a | b], and p once more.
DANLU_INLINE int gate_rows_back(const float* ab, const float* g, float* dab, float* p, int64_t rows, int64_t columns) {
    if (rows < 0 || columns <= 0 || columns % kLanes) return DANLU_BAD_SIZE;
    for (int64_t row = 0; row < rows; ++row, ab += 2 * columns, dab += 2 * columns, g += columns, p += columns) {
        const float *a = ab, *b = ab + columns;
        float *da = dab, *db = dab + columns;
        for (int64_t c = 0; c < columns; c += kLanes) {
            const Floats left = load(a + c), right = load(b + c), back = load(g + c);
            const Floats s = sigmoid(left), silu = left * s;
            store(p + c, silu * right);
            store(db + c, back * silu);
            store(da + c, back * right * (s + silu * (1.0f - s)));
        }
    }
    return DANLU_OK;
}

// Turn every head of x (rows, heads, 2 * half) by its row's angles: (u, v) -> (u cos - sign v sin, v cos + sign u sin).
// A `step` is the number of floats from one row to the next; cos, sin (rows, half). sign -1 turns back.
DANLU_INLINE int turn_rows(const float* x, float* y, const float* cosine, const float* sine, int64_t rows, int64_t heads,
                           int64_t half, int64_t step_x, int64_t step_y, int64_t step_angle, float sign) {
    if (rows < 0 || heads < 0 || half <= 0) return DANLU_BAD_SIZE;
    for (int64_t row = 0; row < rows; ++row) {
        const float *cos_row = cosine + row * step_angle, *sin_row = sine + row * step_angle;
        for (int64_t head = 0; head < heads; ++head) {
            const float* u = x + row * step_x + head * 2 * half;
            float* v = y + row * step_y + head * 2 * half;
            for (int64_t k = 0; k < half; ++k) {
                const float left = u[k], right = u[k + half], s = sign * sin_row[k];
                v[k] = left * cos_row[k] - right * s;
                v[k + half] = right * cos_row[k] + left * s;
            }
        }
    }
    return DANLU_OK;
}

}  // namespace

#define DANLU_TRAIN(ISA)                                                                                               \
    DANLU_API DANLU_TARGET int danlu_norm_##ISA(const float* x, const float* w, float* h, float* rstd, int64_t rows,   \
                                                int64_t columns, float eps) {                                          \
        return norm_rows(x, w, h, rstd, rows, columns, eps);                                                           \
    }                                                                                                                  \
    DANLU_API DANLU_TARGET int danlu_norm_back_##ISA(const float* x, const float* w, const float* rstd,                \
                                                     const float* g, const float* other, float* dx, float* dw,         \
                                                     int64_t rows, int64_t columns) {                                  \
        return norm_rows_back(x, w, rstd, g, other, dx, dw, rows, columns);                                            \
    }                                                                                                                  \
    DANLU_API DANLU_TARGET int danlu_gate_##ISA(const float* ab, float* p, int64_t rows, int64_t columns) {            \
        return gate_rows(ab, p, rows, columns);                                                                        \
    }                                                                                                                  \
    DANLU_API DANLU_TARGET int danlu_gate_back_##ISA(const float* ab, const float* g, float* dab, float* p,            \
                                                     int64_t rows, int64_t columns) {                                  \
        return gate_rows_back(ab, g, dab, p, rows, columns);                                                           \
    }                                                                                                                  \
    DANLU_API DANLU_TARGET int danlu_turn_##ISA(const float* x, float* y, const float* cosine, const float* sine,      \
                                                int64_t rows, int64_t heads, int64_t half, int64_t step_x,             \
                                                int64_t step_y, int64_t step_angle, float sign) {                      \
        return turn_rows(x, y, cosine, sine, rows, heads, half, step_x, step_y, step_angle, sign);                     \
    }
