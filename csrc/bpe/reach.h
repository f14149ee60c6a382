// How far the tokens that begin at a byte reach. Every token of a word stands in its bytes, so where no token reaches over a
// place, nothing is ever joined across it: a row of characters without a blank falls there into short pieces, which repeat.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bpe/words.h"

// The tokens that merges spell, as a tree of bytes: the first two by a table, the others by an open one of node and byte.
struct danlu_bpe_reach {
    // byte_ids (256), merges (count, 3): as danlu_bpe_new has them.
    void build(const int32_t* byte_ids, const int32_t* merges, int64_t count) {
        int32_t last = *std::max_element(byte_ids, byte_ids + 256);
        if (count) last = std::max(last, *std::max_element(merges, merges + 3 * count));
        std::vector<std::string> spelled(size_t(last) + 1);
        for (int byte = 0; byte < 256; byte++) spelled[byte_ids[byte]] = std::string(1, char(byte));
        pairs.assign(1 << 16, 0), steps.clear(), nodes = used = 0;
        make_room(1 << 12);
        for (bool more = true; more;) {  // a merge of what a later one spells has its turn when that is known
            int64_t spelt = 0, unspelt = 0;
            for (int64_t i = 0; i < count; i++) {
                const std::string &left = spelled[merges[3 * i]], &right = spelled[merges[3 * i + 1]];
                std::string& joined = spelled[merges[3 * i + 2]];
                unspelt += left.empty() || right.empty();
                if (left.empty() || right.empty() || !joined.empty()) continue;
                joined = left + right, spelt++;
                while (4 * (used + joined.size()) > steps.size()) make_room(2 * steps.size());
                add(joined);
            }
            more = spelt && unspelt;
        }
    }

    // Bytes of the longest token that begins at p; 1 where none of two or more does.
    int64_t longest(const uint8_t* p, const uint8_t* end) const {
        if (end - p < 2) return 1;
        uint32_t at = pairs[p[0] << 8 | p[1]];
        int64_t found = at & kToken ? 2 : 1;
        for (int64_t i = 2; at & kGoesOn && i < end - p; i++) {
            at = next(at >> kFlags, p[i]);
            if (at & kToken) found = i + 1;
        }
        return found;
    }

    // Whether the two bytes at p are a token.
    bool joins(const uint8_t* p) const { return pairs[p[0] << 8 | p[1]] & kToken; }

   private:
    static constexpr uint32_t kToken = 1, kGoesOn = 2, kFlags = 2;  // a token ends here; longer ones follow; their bits
    static constexpr uint32_t kNone = ~uint32_t(0);
    struct Step {
        uint32_t key = kNone, to = 0;  // node and byte; number of the node there, and its flags
    };
    std::vector<uint32_t> pairs;
    std::vector<Step> steps;
    uint32_t nodes = 0, used = 0;
    int shift = 0;  // the uppermost bits of a product choose the place

    const Step& slot(uint32_t key) const {
        uint64_t s = key * kBase >> shift;
        while (steps[s].key != key && steps[s].key != kNone) s = (s + 1) & (steps.size() - 1);
        return steps[s];
    }
    uint32_t next(uint32_t node, uint8_t byte) const { return slot(node << 8 | byte).to; }

    void make_room(uint64_t size) {
        std::vector<Step> old(size);
        old.swap(steps);
        shift = 64 - __builtin_ctzll(size);
        for (const Step& each : old)
            if (each.key != kNone) const_cast<Step&>(slot(each.key)) = each;
    }

    void add(const std::string& text) {
        uint32_t* at = &pairs[uint8_t(text[0]) << 8 | uint8_t(text[1])];
        if (!*at) *at = ++nodes << kFlags;
        for (size_t i = 2; i < text.size(); i++) {
            *at |= kGoesOn;
            const uint32_t key = *at >> kFlags << 8 | uint8_t(text[i]);
            Step& step = const_cast<Step&>(slot(key));
            if (step.key != key) step = {key, ++nodes << kFlags}, used++;
            at = &step.to;
        }
        *at |= kToken;
    }
};
