// A text as characters with their classes, cut into lines; csrc/rules/ counts on it.
#pragma once

#include "rules/chars.h"
#include "rules/rules.h"

namespace danlu_rules {

constexpr uint64_t kBase = 0x9E3779B97F4A7C15;

inline uint64_t mixed(uint64_t x) {
    x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93;
    return x ^ (x >> 32);
}

template <class T>
void grow(std::vector<T>& room, int64_t size) {
    if (int64_t(room.size()) < size) room.resize(size);  // what is there is written over: no need to clear it
}

struct Page {
    std::vector<uint32_t> chars;
    std::vector<uint16_t> classes;
    std::vector<uint64_t> sums, powers;
    std::vector<Span> words, lines;         // lines: by any Unicode line end
    std::vector<int64_t> breaks, newlines;  // where line ends of any kind stand, and line feeds
    const uint16_t* table = nullptr;
    int64_t size = 0, han = 0;

    uint16_t class_of(uint32_t c) const {
        return c < kClasses ? table[c] : c < kBeyond ? uint16_t(kAlpha | kLetter | kLower | kUpper | kCjk) : 0;
    }
    bool is(int64_t i, uint16_t names) const { return classes[i] & names; }
    bool spells(int64_t i, const char* text) const {
        for (; *text; text++, i++)
            if (i >= size || chars[i] != uint32_t(*text)) return false;
        return true;
    }
    uint64_t hash(Span part) const {  // of the characters, whatever stands before them; the length is part of it
        return mixed(sums[part.end] - sums[part.begin] * powers[part.size()]) + uint64_t(part.size());
    }

    void read(const uint8_t* bytes, int64_t count) {
        grow(chars, count + 1), grow(classes, count + 1), grow(sums, count + 1);
        while (int64_t(powers.size()) < count + 1) powers.push_back(powers.empty() ? 1 : powers.back() * kBase);
        breaks.clear(), newlines.clear(), lines.clear();
        size = 0;
        uint64_t sum = sums[0] = 0;
        for (int64_t i = 0; i < count; size++) {
            uint32_t c = bytes[i];
            i += c < 0x80 ? 1 : decode(bytes + i, count - i, c);
            const uint16_t own = class_of(c);
            chars[size] = c, classes[size] = own;
            sums[size + 1] = sum = sum * kBase + c + 1;
            if (own & kLineEnd) breaks.push_back(size);
        }
        int64_t begin = 0;
        for (const int64_t at : breaks) {
            if (chars[at] == '\n') newlines.push_back(at);
            if (at < begin) continue;  // the second half of "\r\n"
            lines.push_back({begin, at});
            begin = at + 1 + (at + 1 < size && chars[at] == '\r' && chars[at + 1] == '\n');
        }
        if (begin < size) lines.push_back({begin, size});
    }

    Span stripped(Span part) const {
        while (part.begin < part.end && is(part.begin, kBlank)) part.begin++;
        while (part.begin < part.end && is(part.end - 1, kBlank)) part.end--;
        return part;
    }

    // Whether a third of a line or more is Chinese: it is short sooner, has no blanks, and ends with its own signs.
    bool chinese(Span part) const {
        if (!han) return false;
        int64_t own = 0;
        for (int64_t i = part.begin; i < part.end; i++) own += (classes[i] & kCjk) != 0;
        return own && 3 * own >= part.size();
    }
};

}  // namespace danlu_rules
