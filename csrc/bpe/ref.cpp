// A text is cut into words by the expression of GPT-2 (Radford et al. 2019), and what a word becomes does not depend on its
// neighbours: words repeat, so most of them are found in a table of words met before.
#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "bpe/tokens.h"
#include "bpe/words.h"

namespace {

constexpr int64_t kRemembered = 15;                     // bytes of the longest word that is kept in the table
constexpr uint64_t kFirst = 1 << 12, kSlots = 1 << 18;  // of the table: it doubles, and starts anew at half of the last

struct Word {
    uint64_t hash = 0;
    uint8_t size = 0, count = 0;
    uint8_t bytes[kRemembered];
    uint32_t first = 0;  // in the pool of tokens
};

}  // namespace

struct danlu_bpe {
    danlu_bpe_words cut;
    int32_t byte_ids[256];
    Merges merges;
    Tokens vocabulary;
    bool is_regular = false;  // the vocabulary says what a row of bytes becomes
    std::vector<Word> words = std::vector<Word>(kFirst);
    std::vector<int32_t> pool, tokens, next, before, ranks, joined;
    std::vector<uint64_t> queue, dead;
    uint64_t known = 0;

    // The longest token that fits the one before it; where none does, the one before it was too long. No place is left
    // twice, so a megabyte without a blank takes a fraction of a second.
    int64_t fit(const uint8_t* p, int64_t size, int32_t* out) {
        dead.assign(size / 64 + 1, 0);
        int64_t count = 0, at = 0;
        for (int32_t token = vocabulary.longest(p, p + size);;) {
            const int64_t stop = at + vocabulary.of[token].size;
            if (!(dead[stop / 64] >> stop % 64 & 1) && (!count || vocabulary.apart(out[count - 1], token, kNever, merges))) {
                out[count++] = token;
                if (stop == size) return count;
                at = stop, token = vocabulary.longest(p + at, p + size);
                continue;
            }
            token = vocabulary.shorter[token];
            if (token != kNoToken) continue;
            dead[at / 64] |= uint64_t(1) << at % 64;
            token = out[--count], at -= vocabulary.of[token].size;
        }
    }

    // The same for any vocabulary, by a queue of rank and place. What it gives counts only while the pair at that place still
    // has that rank.
    int64_t join(const uint8_t* p, int64_t size, int32_t* out) {
        tokens.resize(size), next.resize(size), before.resize(size), ranks.resize(size), joined.resize(size);
        queue.clear();
        const auto look = [&](int32_t i) {
            const Merge found = next[i] < 0 ? Merge() : merges.of(tokens[i], tokens[next[i]]);
            ranks[i] = found.rank, joined[i] = found.token;
            if (found.rank != kNever) queue.push_back(uint64_t(found.rank) << 32 | uint32_t(i));
            return found.rank != kNever;
        };
        const std::greater<uint64_t> least_first;
        for (int64_t i = 0; i < size; i++) {
            tokens[i] = byte_ids[p[i]], before[i] = int32_t(i - 1), next[i] = i + 1 < size ? int32_t(i + 1) : -1;
        }
        for (int64_t i = 0; i < size; i++) look(int32_t(i));
        std::make_heap(queue.begin(), queue.end(), least_first);
        while (!queue.empty()) {
            std::pop_heap(queue.begin(), queue.end(), least_first);
            const int32_t place = int32_t(uint32_t(queue.back())), rank = int32_t(queue.back() >> 32);
            queue.pop_back();
            if (ranks[place] != rank) continue;
            const int32_t gone = next[place];
            tokens[place] = joined[place], ranks[gone] = kNever;
            next[place] = next[gone];
            if (next[gone] >= 0) before[next[gone]] = place;
            if (before[place] >= 0 && look(before[place])) std::push_heap(queue.begin(), queue.end(), least_first);
            if (look(place)) std::push_heap(queue.begin(), queue.end(), least_first);
        }
        int64_t count = 0;
        for (int32_t i = 0; i >= 0; i = next[i]) out[count++] = tokens[i];
        return count;
    }

    int64_t make(const uint8_t* p, int64_t size, int32_t* out) { return is_regular ? fit(p, size, out) : join(p, size, out); }

    int64_t word(const uint8_t* p, int64_t size, int32_t* out) {
        if (size == 1) return *out = byte_ids[*p], 1;
        if (size > kRemembered) return make(p, size, out);
        const uint64_t hash = bpe_hashed(p, size);
        Word* found = slot(hash, p, size);
        if (found->size) {
            for (int i = 0; i < found->count; i++) out[i] = pool[found->first + i];
            return found->count;
        }
        const int64_t count = make(p, size, out);
        if (2 * ++known > words.size()) make_room(), found = slot(hash, p, size);
        found->hash = hash, found->size = uint8_t(size), found->count = uint8_t(count), found->first = uint32_t(pool.size());
        std::memcpy(found->bytes, p, size);
        pool.insert(pool.end(), out, out + count);
        return count;
    }

    // Where these bytes are in the table, or an empty place for them.
    Word* slot(uint64_t hash, const uint8_t* p, int64_t size) {
        const uint64_t mask = words.size() - 1;
        for (uint64_t s = hash & mask;; s = (s + 1) & mask) {
            Word& each = words[s];
            if (!each.size || (each.hash == hash && each.size == size && bpe_same(each.bytes, p, size))) return &each;
        }
    }

    void make_room() {
        if (words.size() == kSlots) {
            for (Word& each : words) each.size = 0;
            pool.clear(), known = 1;
            return;
        }
        std::vector<Word> old(2 * words.size());
        old.swap(words);
        for (const Word& each : old)
            if (each.size) *slot(each.hash, each.bytes, each.size) = each;
    }
};

DANLU_API danlu_bpe* danlu_bpe_new(const uint8_t* classes, int64_t class_count, const int32_t* byte_ids,
                                   const int32_t* merges, int64_t count) try {
    if (count >= kNever) return nullptr;  // no vocabulary has sixteen million tokens
    std::unique_ptr<danlu_bpe> made(new danlu_bpe);
    made->cut.classes.assign(classes, classes + class_count);
    std::memcpy(made->byte_ids, byte_ids, sizeof made->byte_ids);
    made->merges.build(merges, count);
    made->is_regular = made->vocabulary.build(byte_ids, merges, count, made->merges);
    return made.release();
} catch (const std::bad_alloc&) {
    return nullptr;
}

DANLU_API void danlu_bpe_free(danlu_bpe* bpe) { delete bpe; }

DANLU_API int danlu_bpe_encode(danlu_bpe* bpe, const uint8_t* bytes, const int64_t* ends, int64_t texts, int32_t* ids,
                               int64_t* counts) try {
    for (int64_t t = 0, begin = 0; t < texts; begin = ends[t++]) {
        if (ends[t] < begin || ends[t] - begin > INT32_MAX) return DANLU_BAD_SIZE;
        int32_t* out = ids;
        for (const uint8_t *p = bytes + begin, *end = bytes + ends[t]; p < end && out;) {
            const uint8_t* stop = bpe->cut.word_end(p, end);
            out = stop ? out + bpe->word(p, stop - p, out) : nullptr;
            p = stop;
        }
        counts[t] = out ? out - ids : -1;
        if (out) ids = out;
    }
    return DANLU_OK;
} catch (const std::bad_alloc&) {
    return DANLU_NO_MEMORY;
}
