// Letters become lower case without diacritics, signs blanks: by a table of what becomes of each character
// (src/danlu/data/folds.py, beside the plain reference).
#include "text/text.h"

namespace {

constexpr int64_t kForms = 0x20000, kRoom = 16;  // characters of the table, bytes of a row: a length, then as many bytes
constexpr uint8_t kSelf = 0xFF;

// U+4000-9FFF, Chinese characters: each stays what it is.
inline bool is_han(uint32_t bytes) { return uint8_t(bytes) - 0xE4u < 6 && (bytes & 0xC0C000) == 0x808000; }

inline bool follows(uint8_t c) { return (c & 0xC0) == 0x80; }

// Bytes of the character at p, and its number; 1 and 0 for a byte that begins none.
inline int64_t character(const uint8_t* p, int64_t left, uint32_t& code) {
    const uint8_t c = *p;
    code = 0;
    if (c >= 0xC2 && c < 0xE0 && left > 1 && follows(p[1])) {
        code = uint32_t(c & 31) << 6 | (p[1] & 63);
        return 2;
    }
    if (c >= 0xE0 && c < 0xF0 && left > 2 && follows(p[1]) && follows(p[2])) {
        code = uint32_t(c & 15) << 12 | uint32_t(p[1] & 63) << 6 | (p[2] & 63);
        return code < 0x800 || (code >= 0xD800 && code < 0xE000) ? (code = 0, 1) : 3;
    }
    if (c >= 0xF0 && c < 0xF5 && left > 3 && follows(p[1]) && follows(p[2]) && follows(p[3])) {
        code = uint32_t(c & 7) << 18 | uint32_t(p[1] & 63) << 12 | uint32_t(p[2] & 63) << 6 | (p[3] & 63);
        return code < 0x10000 || code > 0x10FFFF ? (code = 0, 1) : 4;
    }
    return 1;
}

}  // namespace

// forms (kForms, kRoom). out: room for three times the bytes of the texts and kRoom more; out_ends (texts).
DANLU_API int danlu_fold(const uint8_t* bytes, const int64_t* ends, int64_t texts, const uint8_t* forms, uint8_t* out,
                         int64_t* out_ends) {
    uint8_t* to = out;
    for (int64_t t = 0, begin = 0; t < texts; begin = ends[t++]) {
        if (ends[t] < begin) return DANLU_BAD_SIZE;
        const uint8_t *p = bytes + begin, *const end = bytes + ends[t];
        while (p < end) {
            uint64_t eight = UINT64_MAX;
            if (end - p >= 8) std::memcpy(&eight, p, 8);
            if (!(eight & 0x8080808080808080)) {
                std::memcpy(to, &eight, 8);
                p += 8, to += 8;
                continue;
            }
            for (uint32_t four; end - p >= 4; p += 3, to += 3) {
                std::memcpy(&four, p, 4);
                if (!is_han(four)) break;
                std::memcpy(to, &four, 4);
            }
            if (*p < 0x80) {
                *to++ = *p++;
                continue;
            }
            uint32_t code;
            const int64_t size = character(p, end - p, code);
            const uint8_t* const row = forms + (code < kForms ? code : 0) * kRoom;
            if (row[0] == kSelf) {
                for (int64_t i = 0; i < size; i++) to[i] = p[i];
                to += size;
            } else {
                std::memcpy(to, row + 1, kRoom - 1);
                to += row[0];
            }
            p += size;
        }
        out_ends[t] = to - out;
    }
    return DANLU_OK;
}
