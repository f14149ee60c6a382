// The tokens of a vocabulary: what each is made of, which of two neighbours stay apart, and the longest at a place.
//
// A row of tokens is what merging makes of its bytes exactly when each of them is what it makes of its own bytes, and
// of each two neighbours both are what it makes of theirs together: until a merge reaches over an edge, the bytes on
// both sides of it merge as they do alone. So nothing need be merged to encode (van Antwerpen and Neubeck 2024).
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "bpe/words.h"

constexpr int32_t kNoToken = -1;
constexpr int32_t kNever = 1 << 24;  // rank of a pair that nothing joins

struct Merge {
    uint64_t pair = ~uint64_t(0);
    int32_t rank = kNever, token = kNoToken;
};

// Merges by their two tokens, in an open table.
struct Merges {
    std::vector<Merge> slots;
    std::vector<uint64_t> seen;  // a bit for the hash of each pair: nearly all pairs that are asked for are none
    uint64_t mask = 0;

    // merges (count, 3): as danlu_bpe_new has them; of those of one pair the last one counts.
    void build(const int32_t* merges, int64_t count) {
        uint64_t size = 16;
        while (size < uint64_t(count) * 4) size *= 2;
        slots.assign(size, Merge()), seen.assign(size / 8, 0), mask = size - 1;
        for (int64_t i = 0; i < count; i++) {
            const uint64_t pair = key(merges[3 * i], merges[3 * i + 1]);
            const uint64_t hash = bpe_mixed(pair * kBase);
            slots[place(hash, pair)] = {pair, int32_t(i), merges[3 * i + 2]};
            bits(hash) |= bit(hash);
        }
    }

    // What joins the two; of rank kNever where nothing does.
    const Merge& of(int32_t left, int32_t right) const {
        const uint64_t pair = key(left, right);
        return slots[place(bpe_mixed(pair * kBase), pair)];
    }
    int32_t rank(int32_t left, int32_t right) const {
        const uint64_t pair = key(left, right), hash = bpe_mixed(pair * kBase);
        return bits(hash) & bit(hash) ? slots[place(hash, pair)].rank : kNever;
    }

   private:
    static uint64_t key(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }
    static uint64_t bit(uint64_t hash) { return uint64_t(1) << (hash >> 58); }
    const uint64_t& bits(uint64_t hash) const { return seen[(hash >> 32) & (seen.size() - 1)]; }
    uint64_t& bits(uint64_t hash) { return seen[(hash >> 32) & (seen.size() - 1)]; }
    uint64_t place(uint64_t s, uint64_t pair) const {
        s &= mask;
        while (slots[s].pair != pair && slots[s].pair != ~uint64_t(0)) s = (s + 1) & mask;
        return s;
    }
};

struct Tokens {
    struct Token {
        int32_t left = kNoToken, right = kNoToken, rank = kNever;  // of the merge that makes it of its own bytes; -1: a byte
        int32_t size = 0;
    };
    std::vector<Token> of;
    std::vector<int32_t> shorter;  // of each token, the longest other one that it begins with

    // False where a merge comes before one that makes what it joins: then only merging says what a text becomes.
    bool build(const int32_t* byte_ids, const int32_t* merges, int64_t count, const Merges& table) {
        int32_t last = *std::max_element(byte_ids, byte_ids + 256);
        if (count) last = std::max(last, *std::max_element(merges, merges + 3 * count));
        of.assign(size_t(last) + 1, Token());
        std::copy(byte_ids, byte_ids + 256, bytes);
        for (int byte = 0; byte < 256; byte++) of[byte_ids[byte]].rank = -1, of[byte_ids[byte]].size = 1;
        for (int64_t i = 0; i < count; i++) {
            const int32_t left = merges[3 * i], right = merges[3 * i + 1];
            Token& made = of[merges[3 * i + 2]];
            if (made.rank != kNever || of[left].rank == kNever || of[right].rank == kNever) continue;
            if (table.of(left, right).rank != i || !apart(left, right, int32_t(i), table)) continue;
            made.left = left, made.right = right, made.rank = int32_t(i), made.size = of[left].size + of[right].size;
        }
        for (int64_t i = 0; i < count; i++)
            for (int side = 0; side < 2; side++)
                if (const int32_t rank = of[merges[3 * i + side]].rank; rank >= i && rank != kNever) return false;
        grow();
        return true;
    }

    // Whether no merge of a rank below `limit` reaches from one token into the next while both come about, the last first.
    bool apart(int32_t left, int32_t right, int32_t limit, const Merges& table) const {
        while (true) {
            if (table.rank(left, right) < limit) return false;
            const Token &a = of[left], &b = of[right];
            if (a.rank > b.rank) limit = a.rank, left = a.right;
            else if (b.rank >= 0) limit = b.rank + 1, right = b.left;  // among equal merges the leftmost comes first
            else return true;
        }
    }

    // The longest token that begins at p.
    int32_t longest(const uint8_t* p, const uint8_t* end) const {
        int32_t found = bytes[*p];
        if (end - p < 2) return found;
        Step at = pairs[p[0] << 8 | p[1]];
        for (p += 2;; p++) {
            if (at.token != kNoToken) found = at.token;
            if (!at.base || p == end) return found;
            const Edge& edge = edges[at.base + *p];
            if (edge.from != at.base) return found;
            at = edge.to;
        }
    }

   private:
    // The tree of the tokens' bytes: the first two by a table, the others in one row where nodes overlap (Aoe 1989).
    struct Step {
        uint32_t base = 0;  // of the node's edges, each at its byte from there; 0: it has none
        int32_t token = kNoToken;
    };
    struct Edge {
        uint32_t from = 0;  // base of the node whose edge it is
        Step to;
    };
    struct Spelled {
        std::vector<uint8_t> text;
        int32_t token;
    };
    using At = std::vector<Spelled>::const_iterator;
    int32_t bytes[256];
    std::vector<Step> pairs;
    std::vector<Edge> edges;
    std::vector<bool> is_base;
    static constexpr uint32_t kDense = 32;  // places that are not looked at again when all of them were taken
    uint32_t free = 1;                      // where room is looked for

    void grow() {
        std::vector<Spelled> every;
        byte_of.assign(of.size(), 0);
        for (int byte = 0; byte < 256; byte++) byte_of[bytes[byte]] = uint8_t(byte);
        for (int32_t token = 0; token < int32_t(of.size()); token++)
            if (of[token].size > 1) every.push_back({{}, token}), spell(token, every.back().text);
        std::sort(every.begin(), every.end(), [](const Spelled& a, const Spelled& b) { return a.text < b.text; });
        pairs.assign(1 << 16, Step()), edges.assign(256, Edge()), is_base.assign(1, true), free = 1;
        const auto pair = [](const Spelled& each) { return each.text[0] << 8 | each.text[1]; };
        for (At at = every.begin(), next = at; at != every.end(); at = next) {
            while (next != every.end() && pair(*next) == pair(*at)) next++;
            pairs[pair(*at)] = node(at, next, 2);
        }
        shorter.assign(of.size(), kNoToken);
        for (const Spelled& each : every) shorter[each.token] = longest(each.text.data(), each.text.data() + each.text.size() - 1);
    }

    // The node of tokens, sorted, that have their first `depth` bytes in common.
    Step node(At at, const At end, size_t depth) {
        Step made;
        if (at->text.size() == depth) made.token = at++->token;
        if (at == end) return made;
        std::vector<std::pair<uint8_t, At>> parts;
        for (At each = at; each != end; each++)
            if (parts.empty() || parts.back().first != each->text[depth]) parts.emplace_back(each->text[depth], each);
        made.base = room(parts);
        for (const auto& part : parts) edges[made.base + part.first].from = made.base;
        for (size_t i = 0; i < parts.size(); i++) {
            const Step to = node(parts[i].second, i + 1 < parts.size() ? parts[i + 1].second : end, depth + 1);
            edges[made.base + parts[i].first].to = to;  // the row may have moved
        }
        return made;
    }

    // A base that is no other node's, where the edges of these bytes are free.
    uint32_t room(const std::vector<std::pair<uint8_t, At>>& parts) {
        while (free < edges.size() && edges[free].from) free++;
        const uint32_t first = free > parts[0].first ? free - parts[0].first : 1;
        for (uint32_t base = first;; base++) {
            if (base + 256 > edges.size()) edges.resize(2 * edges.size() + base), is_base.resize(edges.size());
            const auto is_free = [&](const auto& part) { return !edges[base + part.first].from; };
            if (is_base[base] || !std::all_of(parts.begin(), parts.end(), is_free)) continue;
            is_base[base] = true;
            if (base > first + kDense) free = base + parts[0].first;
            return base;
        }
    }

    std::vector<uint8_t> byte_of;
    void spell(int32_t token, std::vector<uint8_t>& text) const {
        if (of[token].rank < 0) return text.push_back(byte_of[token]);
        spell(of[token].left, text), spell(of[token].right, text);
    }
};
