// Characters of a text: from UTF-8 and back, and the stop words that they spell.
#pragma once

#include <cstdint>

namespace danlu_rules {

// One UTF-8 character at p, of which `left` bytes can be read; a byte that begins none counts as U+FFFD.
inline int decode(const uint8_t* p, int64_t left, uint32_t& c) {
    const auto tail = [&](int i) { return i < left && (p[i] & 0xC0) == 0x80 ? p[i] & 0x3F : -1; };
    c = 0xFFFD;
    if (p[0] < 0x80) return c = p[0], 1;
    if (p[0] >= 0xC2 && p[0] < 0xE0 && tail(1) >= 0) return c = (p[0] & 31) << 6 | tail(1), 2;
    if ((p[0] & 0xF0) == 0xE0 && tail(1) >= 0 && tail(2) >= 0) return c = (p[0] & 15) << 12 | tail(1) << 6 | tail(2), 3;
    if ((p[0] & 0xF8) == 0xF0 && tail(1) >= 0 && tail(2) >= 0 && tail(3) >= 0)
        return c = (p[0] & 7) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4;
    return 1;
}

inline uint8_t* encode(uint32_t c, uint8_t* p) {
    if (c < 0x80) return *p++ = uint8_t(c), p;
    if (c < 0x800) return *p++ = uint8_t(0xC0 | c >> 6), *p++ = uint8_t(0x80 | (c & 63)), p;
    if (c < 0x10000) *p++ = uint8_t(0xE0 | c >> 12);
    else *p++ = uint8_t(0xF0 | c >> 18), *p++ = uint8_t(0x80 | (c >> 12 & 63));
    return *p++ = uint8_t(0x80 | (c >> 6 & 63)), *p++ = uint8_t(0x80 | (c & 63)), p;
}

// Whether it is a decimal digit in any script: they stand in tens, of which these are the noughts (Unicode 15, Nd).
inline bool decimal(uint32_t c) {
    static const uint32_t kNoughts[] = {
        0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6, 0xE50, 0xED0, 0xF20, 0x1040, 0x1090,
        0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50,
        0xABF0, 0xFF10, 0x104A0, 0x10D30, 0x11066, 0x110F0, 0x11136, 0x111D0, 0x112F0, 0x11450, 0x114D0, 0x11650, 0x116C0, 0x11730,
        0x118E0, 0x11950, 0x11C50, 0x11D50, 0x11DA0, 0x16A60, 0x16AC0, 0x16B50, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6, 0x1E140,
        0x1E2F0, 0x1E950, 0x1FBF0};
    if (c < 0x660) return c >= '0' && c <= '9';
    for (const uint32_t nought : kNoughts)
        if (c - nought < 10) return true;
    return false;
}

inline uint32_t lower(uint32_t c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

// Which of Gopher's stop words, or of the most frequent Chinese characters without a topic, a word is: one bit.
inline uint32_t english_stop(const uint32_t* c, int64_t size) {
    static const char* const kWords[8] = {"the", "be", "to", "of", "and", "that", "have", "with"};
    if (size < 2 || size > 4) return 0;
    for (int k = 0; k < 8; k++) {
        if (c[0] != uint32_t(kWords[k][0])) continue;
        int64_t i = 1;
        while (i < size && c[i] == uint32_t(kWords[k][i])) i++;
        if (i == size && !kWords[k][i]) return 1u << k;
    }
    return 0;
}

inline uint32_t chinese_stop(uint32_t c) {
    switch (c) {
        case 0x7684: return 1;
        case 0x4E86: return 2;
        case 0x662F: return 4;
        case 0x5728: return 8;
        case 0x548C: return 16;
        case 0x4E0D: return 32;
        case 0x6709: return 64;
        case 0x8FD9: return 128;
        default: return 0;
    }
}

}  // namespace danlu_rules
