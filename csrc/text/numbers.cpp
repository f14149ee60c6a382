// Numbers of a text become "0": two pages that differ in a date, a price or a counter then have the same words.
#include "text/text.h"

namespace {
constexpr uint64_t kEach = ~uint64_t(0) / 255;  // 1 in each of eight bytes

inline bool digit(uint8_t c) { return uint8_t(c - '0') < 10; }

inline bool any_digit(uint64_t eight) {
    const uint64_t x = eight ^ kEach * '0';
    return (x - kEach * 10) & ~x & kEach * 128;
}
}  // namespace

DANLU_API int danlu_same_numbers(const uint8_t* bytes, const int64_t* ends, int64_t texts, uint8_t* out, int64_t* out_ends) {
    uint8_t* to = out;
    for (int64_t t = 0, begin = 0; t < texts; begin = ends[t++]) {
        if (ends[t] < begin) return DANLU_BAD_SIZE;
        const uint8_t *p = bytes + begin, *const end = bytes + ends[t];
        while (p < end) {
            uint64_t eight;
            for (; end - p >= 8; p += 8, to += 8) {
                std::memcpy(&eight, p, 8);
                if (any_digit(eight)) break;
                std::memcpy(to, &eight, 8);
            }
            if (p == end) break;
            const uint8_t c = *p++;
            if (!digit(c)) {
                *to++ = c;
                continue;
            }
            *to++ = '0';
            while (p < end && digit(*p)) p++;
            if (end - p > 1 && (*p == '.' || *p == ',') && digit(p[1]))
                for (p += 2; p < end && digit(*p);) p++;
        }
        out_ends[t] = to - out;
    }
    return DANLU_OK;
}
