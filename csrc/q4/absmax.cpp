// absmax of one group of rows, unpacked to floats: every kernel reads them here, so all agree to the last bit.
#include <algorithm>

#include "q4/q4.h"

namespace {

void linear(const danlu_q4& w, int64_t group, int64_t from, int64_t count, float* out) {
    const int64_t spans = q4_spans(w), first = w.shift + from;
    const uint8_t* code = w.absmax + (group * q4_blocks(w.cols) + from) * kQ4Rows;
    for (int64_t done = 0; done < count;) {
        const int64_t span = (first + done) / kQ4Span, stop = std::min(count, (span + 1) * kQ4Span - first);
        const float step = w.scale[(group * spans + span) * 2], low = w.scale[(group * spans + span) * 2 + 1];
        for (int64_t i = done * kQ4Rows; i < stop * kQ4Rows; i++) out[i] = float(code[i]) * step + low;
        done = stop;
    }
}

void mapped(const danlu_q4& w, int64_t group, int64_t from, int64_t count, float* out) {
    const int64_t stride = q4_stride(w), rows = std::min(kQ4Rows, w.rows - group * kQ4Rows);
    const uint8_t* code = w.absmax + (group * q4_blocks(w.cols) + from) * kQ4Rows;
    for (int64_t b = 0; b < count; b++, code += kQ4Rows, out += kQ4Rows) {
        for (int64_t r = 0; r < rows; r++) {
            const int64_t index = w.shift + (group * kQ4Rows + r) * stride + from + b;
            out[r] = w.map[code[r]] * w.scale[index / 256] + w.offset;
        }
        for (int64_t r = rows; r < kQ4Rows; r++) out[r] = 0;
    }
}

}  // namespace

void q4_absmax(const danlu_q4& w, int64_t group, int64_t from, int64_t count, float* out) {
    (w.map ? mapped : linear)(w, group, from, count, out);
}
