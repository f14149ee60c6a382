// The product and the unpacking as one call each, for callers without buffers of their own: memory, threads, checks.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "core/cpu.h"
#include "core/team.h"
#include "q4/files.h"

namespace {

struct Product {
    const danlu_q4_kernels* kernels;
    const danlu_q4* w;
    const float* x;
    int64_t tokens;
    danlu_precision precision;
    const float* bias;
    float* out;
    char* ready;
    char* scratch;
    int64_t scratch_bytes;  // of one thread
};

void prepare_part(void* arg, int part, int parts) {
    const Product& p = *static_cast<const Product*>(arg);
    p.kernels->prepare(p.x, p.w->cols, p.tokens, p.tokens * part / parts, p.tokens * (part + 1) / parts, p.w->cols,
                       p.precision, p.ready);
}

void multiply_part(void* arg, int part, int parts) {
    const Product& p = *static_cast<const Product*>(arg);
    const int64_t groups = q4_groups(p.w->rows);
    p.kernels->multiply(p.w, p.ready, p.tokens, p.precision, groups * part / parts, groups * (part + 1) / parts, p.bias,
                        p.out, p.w->rows, p.scratch + p.scratch_bytes * part);
}

int64_t whole_lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

struct Unpack {
    const danlu_q4* w;
    int64_t first, count;
    float* out;
    float* absmax;  // [parts][blocks][16]
};

void unpack_part(void* arg, int part, int parts) {
    const Unpack& u = *static_cast<const Unpack*>(arg);
    const int64_t blocks = q4_blocks(u.w->cols), last = u.first + u.count * (part + 1) / parts;
    float* absmax = u.absmax + part * blocks * kQ4Rows;
    int64_t group = -1;
    for (int64_t n = u.first + u.count * part / parts; n < last; n++) {
        if (n / kQ4Rows != group) q4_absmax(*u.w, group = n / kQ4Rows, 0, blocks, absmax);
        q4_row(*u.w, n, absmax, u.out + (n - u.first) * u.w->cols);
    }
}

using Room = std::unique_ptr<char, void (*)(char*)>;

Room room(int64_t bytes) {
    return Room(static_cast<char*>(std::aligned_alloc(64, whole_lines(bytes))), [](char* p) { std::free(p); });
}

int linear(const char* isa, const danlu_q4* w, const float* x, int64_t x_rows, int64_t x_floats, const float* bias,
           float* out, int64_t out_floats, int precision, int threads) {
    const danlu_q4_kernels* kernels = danlu_q4_find(isa);
    if (!kernels || !q4_sizes_hold(*w) || threads < 1 || x_rows < 1 || x_floats / x_rows != w->cols ||
        x_floats % x_rows || out_floats / x_rows != w->rows || out_floats % x_rows || precision < DANLU_FP32 ||
        precision > DANLU_BFLOAT16)
        return DANLU_BAD_SIZE;
    const auto least = static_cast<danlu_precision>(precision);
    const int parts = int(std::min<int64_t>(threads, q4_groups(w->rows)));
    const int64_t scratch_bytes = whole_lines(kernels->scratch_bytes(x_rows, w->cols, least));
    const Room ready = room(kernels->ready_bytes(x_rows, w->cols, least)), scratch = room(scratch_bytes * parts);
    if (!ready || !scratch) return DANLU_NO_MEMORY;
    Product product{kernels, w, x, x_rows, least, bias, out, ready.get(), scratch.get(), scratch_bytes};
    danlu_together(int(std::min<int64_t>(threads, x_rows)), prepare_part, &product);
    danlu_together(parts, multiply_part, &product);
    return DANLU_OK;
}

}  // namespace

const danlu_q4_kernels* danlu_q4_find(const char* isa) {
    if (!danlu_cpu_runs(isa)) return nullptr;
#if defined(__x86_64__)
    if (!std::strcmp(isa, "avx2")) return &kQ4Avx2;
    if (!std::strcmp(isa, "avx512")) return &kQ4Avx512;
#if defined(DANLU_KNOWS_AMX)
    if (!std::strcmp(isa, "avx512bf16")) return &kQ4Avx512Bf16;
    if (!std::strcmp(isa, "amx")) return &kQ4Amx;
#endif
#endif
    return std::strcmp(isa, "ref") ? nullptr : &kQ4Ref;
}

const danlu_q4_kernels* danlu_q4_best() {
    for (const char* isa : {"amx", "avx512bf16", "avx512", "avx2"})
        if (const danlu_q4_kernels* found = danlu_q4_find(isa)) return found;
    return &kQ4Ref;
}

// out (x_rows, rows) = x (x_rows, cols) @ w^T + bias (rows, or null) in at least that precision, on `threads` threads.
#define DANLU_LINEAR_Q4(isa)                                                                                 \
    DANLU_API int danlu_linear_q4_##isa(const danlu_q4* w, const float* x, int64_t x_rows, int64_t x_floats, \
                                        const float* bias, float* out, int64_t out_floats, int precision,    \
                                        int threads) {                                                       \
        return linear(#isa, w, x, x_rows, x_floats, bias, out, out_floats, precision, threads);              \
    }
DANLU_LINEAR_Q4(ref)
DANLU_LINEAR_Q4(avx2)
DANLU_LINEAR_Q4(avx512)
#if defined(DANLU_KNOWS_AMX)
DANLU_LINEAR_Q4(avx512bf16)
DANLU_LINEAR_Q4(amx)
#endif

// Rows [first, first + count) of w as floats, (count, cols).
DANLU_API int danlu_dequantize_q4_ref(const danlu_q4* w, int64_t first, int64_t count, float* out, int64_t out_floats,
                                      int threads) {
    if (!q4_sizes_hold(*w) || first < 0 || count < 1 || count > w->rows - first || out_floats != count * w->cols ||
        threads < 1)
        return DANLU_BAD_SIZE;
    const int parts = int(std::min<int64_t>(threads, count));
    const Room absmax = room(parts * q4_blocks(w->cols) * kQ4Rows * int64_t(sizeof(float)));
    if (!absmax) return DANLU_NO_MEMORY;
    Unpack unpack{w, first, count, out, reinterpret_cast<float*>(absmax.get())};
    danlu_together(parts, unpack_part, &unpack);
    return DANLU_OK;
}
