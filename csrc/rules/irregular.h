// Words that no rule cuts right ("don't", "Dr.", ":-)"): how each is cut, and rows of words that are one of them.
//
// src/danlu/data/irregular.py has them; they come as a table, so both know the same ones.
#pragma once

#include "rules/rules.h"

namespace danlu_rules {

class Irregular {
    static constexpr int64_t kSlots = 1 << 13, kLongest = 15;
    struct Slot {
        uint64_t key;  // 0: nothing is here
        int32_t word;  // -1: only the beginning of a row
    };
    const danlu_irregular* in_ = nullptr;
    std::vector<Slot> whole_, rows_;
    uint16_t sizes_by_first_[128]{}, sizes_by_last_[128]{};  // bit n: one of n characters begins, ends with it
    uint64_t second_[128][2]{};                              // by the first character of a row: those that may begin its second word

    static uint64_t step(uint64_t key, uint32_t c) {
        key = (key ^ c) * 0xD6E8FEB86659FD93;
        return key ^ (key >> 32);
    }
    static Slot& slot(std::vector<Slot>& slots, uint64_t key) {
        uint64_t s = key & (kSlots - 1);
        while (slots[s].key && slots[s].key != key) s = (s + 1) & (kSlots - 1);
        return slots[s];
    }
    static const Slot& slot(const std::vector<Slot>& slots, uint64_t key) { return slot(const_cast<std::vector<Slot>&>(slots), key); }

   public:
    // `in` must outlive this.
    explicit Irregular(const danlu_irregular* in) : in_(in), whole_(kSlots), rows_(kSlots) {
        for (int32_t w = 0; w < in->words; w++) {
            const uint32_t* c = chars(w);
            const int64_t size = this->size(w);
            uint64_t key = 1, row = 1;
            for (int64_t i = 0; i < size; i++) key = step(key, c[i]);
            slot(whole_, key) = {key, w};
            sizes_by_first_[c[0] & 127] |= uint16_t(1 << size), sizes_by_last_[c[size - 1] & 127] |= uint16_t(1 << size);
            if (!(in->parts[w] & (in->parts[w] - 1))) continue;  // the rules leave it whole: no row
            bool second = false;
            for (int64_t i = 0; i < size; i++) {
                if (i && in->parts[w] >> i & 1) {
                    row = step(row, kEnd);
                    Slot& beginning = slot(rows_, row);
                    if (!beginning.key) beginning = {row, -1};
                    if (!second) second_[c[0] & 127][c[i] >> 6 & 1] |= uint64_t(1) << (c[i] & 63);
                    second = true;
                }
                row = step(row, c[i]);
            }
            row = step(row, kEnd);
            slot(rows_, row) = {row, w};
        }
    }
    static constexpr uint32_t kEnd = 0x110000;  // no character

    const uint32_t* chars(int32_t word) const { return in_->chars + (word ? in_->ends[word - 1] : 0); }
    int64_t size(int32_t word) const { return in_->ends[word] - (word ? in_->ends[word - 1] : 0); }
    // Bit i: at its i-th character begins one of the words that it is.
    uint32_t cuts(int32_t word) const { return in_->cuts[word]; }

    // Which of them these characters are; -1 if none.
    int32_t find(const uint32_t* c, int64_t size) const {
        if (size <= 0 || size > kLongest || !(sizes_by_first_[c[0] & 127] & sizes_by_last_[c[size - 1] & 127] & 1 << size)) return -1;
        uint64_t key = 1;
        for (int64_t i = 0; i < size; i++) key = step(key, c[i]);
        const Slot& found = slot(whole_, key);
        if (!found.key || this->size(found.word) != size) return -1;
        for (int64_t i = 0; i < size; i++)
            if (chars(found.word)[i] != c[i]) return -1;
        return found.word;
    }

    // Whether a row may begin with words that begin with these two.
    bool may_begin(uint32_t first, uint32_t next) const { return second_[first & 127][next >> 6 & 1] >> (next & 63) & 1; }

    // The key of a row with one more word; 0 if none begins so. `word` is which of them it is then, or -1.
    uint64_t with(uint64_t row, const uint32_t* c, int64_t size, int32_t& word) const {
        word = -1;
        if (size > kLongest) return 0;
        for (int64_t i = 0; i < size; i++) row = step(row, c[i]);
        const Slot& found = slot(rows_, row = step(row, kEnd));
        word = found.key ? found.word : -1;
        return found.key ? row : 0;
    }
};

}  // namespace danlu_rules
