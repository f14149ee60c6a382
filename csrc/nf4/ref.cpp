// NF4 in plain loops: what every other file of this folder must equal, and the dequantize every card uses.
#include <vector>

#include "core/team.h"
#include "nf4/nf4.h"

namespace {

void dequantize_row(const danlu_nf4& w, int64_t row, float* out) {
    const int64_t blocks = nf4_blocks(w);
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t index = row * blocks + b;
        const float absmax = nf4_absmax(w, index);
        float value[16];
        for (int i = 0; i < 16; i++) value[i] = w.levels[i] * absmax;
        const uint8_t* bytes = w.packed + index * kBlock / 2;
        const int64_t here = w.cols - b * kBlock < kBlock ? w.cols - b * kBlock : kBlock;
        for (int64_t i = 0; i + 1 < here; i += 2) {
            out[b * kBlock + i] = value[bytes[i / 2] >> 4];
            out[b * kBlock + i + 1] = value[bytes[i / 2] & 15];
        }
        if (here % 2) out[b * kBlock + here - 1] = value[bytes[here / 2] >> 4];
    }
}

struct Rows {
    const danlu_nf4* w;
    int64_t first, count;
    float* out;
};

void dequantize_part(void* arg, int part, int parts) {
    const Rows& rows = *static_cast<const Rows*>(arg);
    for (int64_t i = rows.count * part / parts; i < rows.count * (part + 1) / parts; i++)
        dequantize_row(*rows.w, rows.first + i, rows.out + i * rows.w->cols);
}

}  // namespace

// Rows [first, first + count) of w as floats, (count, cols).
DANLU_API int danlu_dequantize_nf4_ref(const danlu_nf4* w, int64_t first, int64_t count, float* out, int64_t out_floats,
                                       int threads) {
    if (!nf4_sizes_hold(*w) || first < 0 || count < 1 || count > w->rows - first || out_floats != count * w->cols || threads < 1)
        return DANLU_BAD_SIZE;
    Rows rows{w, first, count, out};
    danlu_together(count < threads ? int(count) : threads, dequantize_part, &rows);
    return DANLU_OK;
}

DANLU_LINEAR_NF4(ref) {
    (void)threads;
    if (!nf4_linear_sizes_hold(*w, x_rows, x_floats, out_floats)) return DANLU_BAD_SIZE;
    std::vector<float> weights(w->cols);
    for (int64_t n = 0; n < w->rows; n++) {
        dequantize_row(*w, n, weights.data());
        for (int64_t m = 0; m < x_rows; m++) {
            double sum = bias ? bias[n] : 0.0;
            for (int64_t k = 0; k < w->cols; k++) sum += double(x[m * w->cols + k]) * weights[k];
            out[m * w->rows + n] = float(sum);
        }
    }
    return DANLU_OK;
}
