// What learning knows of pairs of neighbours: how often each stands, where, and which of them a merge has made.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "bpe/words.h"

struct Pair {
    uint64_t key = ~uint64_t(0);
    int64_t count = 0;
    int32_t lists = 0;  // that were made of its places
};

// Pairs by their two tokens; an open table that doubles.
struct Pairs {
    std::vector<Pair> slots = std::vector<Pair>(1 << 12);
    uint64_t used = 0;

    Pair& at(uint64_t key) {
        if (2 * used > slots.size()) {
            std::vector<Pair> old(2 * slots.size());
            old.swap(slots);
            for (const Pair& each : old)
                if (each.key != ~uint64_t(0)) place(each.key) = each;
        }
        Pair& found = place(key);
        if (found.key != key) found.key = key, used++;
        return found;
    }

    // Null where it has not been met.
    Pair* find(uint64_t key) {
        Pair& found = place(key);
        return found.key == key ? &found : nullptr;
    }

    // Do work(key, token) for each token, whose pair is key(token); the table is fetched meanwhile.
    template <class Key, class Work>
    void each(const std::vector<int32_t>& tokens, Key key, Work work) {
        constexpr size_t kSoon = 8;
        for (size_t i = 0; i < tokens.size(); i++) {
            if (i + kSoon < tokens.size()) __builtin_prefetch(&slots[first(key(tokens[i + kSoon]))]);
            work(key(tokens[i]), tokens[i]);
        }
    }

   private:
    uint64_t first(uint64_t key) const { return bpe_mixed(key * kBase) & (slots.size() - 1); }
    Pair& place(uint64_t key) {
        const uint64_t mask = slots.size() - 1;
        uint64_t s = first(key);
        while (slots[s].key != key && slots[s].key != ~uint64_t(0)) s = (s + 1) & mask;
        return slots[s];
    }
};

// A pair of tokens, and the list of its places: `size` of them in Learner::places.
struct Candidate {
    int64_t count;
    uint64_t key;
    int64_t first;
    int32_t size;
    bool operator<(const Candidate& other) const { return count != other.count ? count < other.count : key > other.key; }
};

inline uint64_t key_of(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }

// What the merge under way has done to the pairs of the joined token with the tokens on one side of it.
struct Side {
    struct Neighbour {
        int64_t count = 0;  // of the words where it stands there
        int32_t places = 0;
    };
    std::vector<Neighbour> of;  // by token
    std::vector<int32_t> met;   // tokens with places
    std::vector<std::pair<int32_t, int32_t>> found;  // token, place where the new pair begins

    void add(int32_t token, int32_t place, int64_t count) {
        if (of[token].places++ == 0) met.push_back(token);
        of[token].count += count;
        found.emplace_back(token, place);
    }
};
