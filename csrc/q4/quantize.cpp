// Quantizing in plain loops, on any CPU.
#include "q4/quantize.h"

namespace {

using q4::Book;

struct Plain {
    const q4::Quantize& q;
    Book book;

    float level_of(float value) const {
        int code = 0;
        for (float edge : book.edge) code += value > edge;
        return book.level[code];
    }

    float scale_of(const float* x) const {
        const float most = *std::max_element(x, x + kQ4Block), least = *std::min_element(x, x + kQ4Block);
        const float whole = most >= -least ? most : q.with_sign ? least : -least;
        float best = whole, gain = -1;
        for (int64_t n = 0; n < q.tried && whole != 0; n++) {
            const float inverse = 1 / (whole * q.tries[n]);
            float along = 0, length = 0;
            for (int i = 0; i < kQ4Block; i++) {
                const float level = level_of(x[i] * inverse);
                along += x[i] * level, length += level * level;
            }
            if (length > 0 && along * along > gain * length) gain = along * along / length, best = along / length;
        }
        return best;
    }

    // The lane of one row: 4 bytes of every 64.
    void encode(const float* x, float scale, uint8_t* to) const {
        const float inverse = scale != 0 ? 1 / scale : 0;
        for (int i = 0; i < kQ4Block; i++) {
            int code = 0;
            for (float edge : book.edge) code += x[i] * inverse > edge;
            uint8_t& byte = to[i / 8 * 64 + i % 4];
            byte = uint8_t(i % 8 < 4 ? code : byte | code << 4);
        }
    }
};

void part_of_matrix(void* arg, int part, int parts) {
    const auto& q = *static_cast<const q4::Quantize*>(arg);
    q4::quantize_groups(Plain{q, Book(q.levels)}, q, part, parts);
}

}  // namespace

DANLU_QUANTIZE_Q4(ref, part_of_matrix)
