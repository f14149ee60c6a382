// Where the words of a text end, by the expression of GPT-2 (Radford et al. 2019): shared by encoding and learning.
#pragma once

#include <cstring>
#include <vector>

#include "bpe/bpe.h"

constexpr uint64_t kBase = 0x9E3779B97F4A7C15;

inline uint64_t bpe_mixed(uint64_t x) {
    x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93;
    return x ^ (x >> 32);
}

template <class T>
inline T bpe_load(const uint8_t* p) {
    T x;
    std::memcpy(&x, p, sizeof x);
    return x;
}

// Up to eight bytes as a number: among as many bytes, others give another one. Nothing is read beyond them.
inline uint64_t bpe_packed(const uint8_t* p, int64_t size) {
    if (size >= 8) return bpe_load<uint64_t>(p);
    if (size >= 4) return bpe_load<uint32_t>(p) | uint64_t(bpe_load<uint32_t>(p + size - 4)) << 32;
    return size ? p[0] | p[size / 2] << 8 | p[size - 1] << 16 : 0;
}

inline uint64_t bpe_hashed(const uint8_t* p, int64_t size) {
    uint64_t hash = uint64_t(size);
    for (; size > 8; p += 8, size -= 8) hash = bpe_mixed((hash ^ bpe_load<uint64_t>(p)) * kBase);
    return bpe_mixed((hash ^ bpe_packed(p, size)) * kBase);
}

inline bool bpe_same(const uint8_t* a, const uint8_t* b, int64_t size) {
    for (; size > 8; a += 8, b += 8, size -= 8)
        if (bpe_load<uint64_t>(a) != bpe_load<uint64_t>(b)) return false;
    return bpe_packed(a, size) == bpe_packed(b, size);
}

struct danlu_bpe_words {
    std::vector<uint8_t> classes;

    // The class of the character at p, and its bytes; text is valid UTF-8 or the character is unknown.
    uint8_t class_at(const uint8_t* p, const uint8_t* end, int64_t& size) const {
        uint32_t c = *p;
        size = 1;
        if (c >= 0x80) {
            size = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
            if (c < 0xC2 || c > 0xF4 || end - p < size) return size = 1, uint8_t(kUnknown);
            c &= 0x7F >> size;
            for (int64_t i = 1; i < size; i++) c = c << 6 | (p[i] & 0x3F);
        }
        return c < classes.size() ? classes[c] : 0;
    }

    // Where the word that begins at p ends; null for an unknown character.
    const uint8_t* word_end(const uint8_t* p, const uint8_t* end) const {
        int64_t size;
        if (*p == '\'' && p + 1 < end) {
            if (p[1] == 's' || p[1] == 't' || p[1] == 'm' || p[1] == 'd') return p + 2;
            if (p + 2 < end && ((p[1] == 'r' && p[2] == 'e') || (p[1] == 'v' && p[2] == 'e') || (p[1] == 'l' && p[2] == 'l'))) return p + 3;
        }
        const uint8_t* at = p + (*p == ' ' && p + 1 < end);
        uint8_t kind = class_at(at, end, size);
        if (kind == kUnknown) return nullptr;
        if (kind != kSpace) {  // a blank may lead a row of letters, of numbers, or of neither
            do {
                at += size;
                if (at >= end) return at;
                const uint8_t here = class_at(at, end, size);
                if (here == kUnknown) return nullptr;
                if (here != kind) return at;
            } while (true);
        }
        const uint8_t* last = p;  // of a row of blanks, the last one belongs to the word behind it
        for (at = p; at < end; at += size) {
            kind = class_at(at, end, size);
            if (kind == kUnknown) return nullptr;
            if (kind != kSpace) return last > p ? last : at;
            last = at;
        }
        return end;
    }
};
