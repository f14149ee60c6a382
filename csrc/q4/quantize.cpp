// Quantizing on any CPU.
#include "q4/quantize.h"

namespace {

void part_of_matrix(void* arg, int part, int parts) {
    const auto& q = *static_cast<const q4::Quantize*>(arg);
    const q4::Book book(q.levels);
    q4::quantize_groups(q, book, part, parts, [&](const float* x, float most) {
        int64_t best = 0;
        float gain = -1;
        for (int64_t n = 0; n < q.tried; n++) {
            const q4::Fit fit = q4::round_with(book, x, 1 / (most * q.tries[n]));
            if (fit.length > 0 && fit.along * fit.along > gain * fit.length)
                gain = fit.along * fit.along / fit.length, best = n;
        }
        return best;
    });
}

}  // namespace

DANLU_QUANTIZE_Q4(ref, part_of_matrix)
