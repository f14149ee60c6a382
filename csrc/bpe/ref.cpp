// A text is cut into words by the expression of GPT-2 (Radford et al. 2019), and what a word becomes does not depend on its
// neighbours: words repeat, so most of them are found in a table of words met before.
#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "bpe/reach.h"
#include "bpe/words.h"

namespace {

constexpr int64_t kRemembered = 32;          // bytes of the longest word that is kept in the table
constexpr uint64_t kFirst = 1 << 12, kSlots = 1 << 18;  // of the table: it doubles, and starts anew at half of the last
constexpr int64_t kWhole = 15;               // bytes of a word that is looked up as it is; of the longer ones, their pieces
constexpr int64_t kWholeWide = 6;            // the same in scripts of three bytes for a character: few have blanks
constexpr int64_t kShort = 64;               // bytes of a word whose pairs are all looked at for the best one
constexpr int32_t kNone = 1 << 24;           // rank of a pair that nothing joins

struct Merge {
    uint64_t pair = ~uint64_t(0);
    int32_t rank = 0, token = 0;
};

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
    std::vector<Merge> merges;
    uint64_t merge_mask = 0;
    danlu_bpe_reach reach;
    std::vector<Word> words = std::vector<Word>(kFirst);
    std::vector<int32_t> pool, tokens, next, before, ranks, joined;
    std::vector<uint64_t> queue;
    uint64_t known = 0;

    const Merge* merge(int32_t left, int32_t right) const {
        const uint64_t pair = uint64_t(uint32_t(left)) << 32 | uint32_t(right);
        for (uint64_t s = bpe_mixed(pair * kBase) & merge_mask;; s = (s + 1) & merge_mask) {
            if (merges[s].pair == pair) return &merges[s];
            if (merges[s].pair == ~uint64_t(0)) return nullptr;
        }
    }

    // Few bytes: look at every pair for the best, join it, again.
    int64_t join_short(const uint8_t* p, int64_t size, int32_t* out) const {
        int32_t ranks[kShort], joined[kShort];
        const auto look = [&](int64_t i) {
            const Merge* found = merge(out[i], out[i + 1]);
            ranks[i] = found ? found->rank : kNone;
            joined[i] = found ? found->token : 0;
        };
        int64_t count = size;
        for (int64_t i = 0; i < count; i++) out[i] = byte_ids[p[i]];
        for (int64_t i = 0; i + 1 < count; i++) {
            if (reach.joins(p + i)) look(i);
            else ranks[i] = kNone;
        }
        while (count > 1) {
            int32_t least = kNone;  // several at a time: the place is looked for afterwards
            for (int64_t i = 0; i + 1 < count; i++) least = ranks[i] < least ? ranks[i] : least;
            if (least == kNone) break;
            int64_t best = 0;
            while (ranks[best] != least) best++;
            out[best] = joined[best];
            count--;
            const size_t behind = size_t(count - best - 1) * sizeof *out;
            std::memmove(out + best + 1, out + best + 2, behind);
            std::memmove(ranks + best + 1, ranks + best + 2, behind);
            std::memmove(joined + best + 1, joined + best + 2, behind);
            if (best + 1 < count) look(best);
            if (best) look(best - 1);
        }
        return count;
    }

    // Many bytes: the same by a queue of rank and place, so that a megabyte without a blank takes seconds and not days. What
    // it gives counts only while the pair at that place still has that rank.
    int64_t join_long(const uint8_t* p, int64_t size, int32_t* out) {
        tokens.resize(size), next.resize(size), before.resize(size), ranks.resize(size), joined.resize(size);
        queue.clear();
        const auto look = [&](int32_t i) {
            const Merge* found = next[i] < 0 ? nullptr : merge(tokens[i], tokens[next[i]]);
            ranks[i] = found ? found->rank : kNone;
            if (found) joined[i] = found->token, queue.push_back(uint64_t(found->rank) << 32 | uint32_t(i));
            return found != nullptr;
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
            tokens[place] = joined[place], ranks[gone] = kNone;
            next[place] = next[gone];
            if (next[gone] >= 0) before[next[gone]] = place;
            if (before[place] >= 0 && look(before[place])) std::push_heap(queue.begin(), queue.end(), least_first);
            if (look(place)) std::push_heap(queue.begin(), queue.end(), least_first);
        }
        int64_t count = 0;
        for (int32_t i = 0; i >= 0; i = next[i]) out[count++] = tokens[i];
        return count;
    }

    // A word, cut where no token reaches over.
    int64_t word(const uint8_t* p, int64_t size, int32_t* out) {
        if (size <= (p[*p == ' '] >= 0xE0 ? kWholeWide : kWhole)) return piece(p, size, out);
        const uint8_t* const end = p + size;
        const int32_t* const first = out;
        const uint8_t* far = p + reach.longest(p, end);
        for (const uint8_t* at = p + 1; at < end; at++) {
            if (at == far) out += piece(p, at - p, out), p = at;
            const uint8_t* const own = at + reach.longest(at, end);
            far = own > far ? own : far;
        }
        return out + piece(p, end - p, out) - first;
    }

    int64_t piece(const uint8_t* p, int64_t size, int32_t* out) {
        if (size == 1) return *out = byte_ids[*p], 1;
        if (size > kShort) return join_long(p, size, out);
        if (size > kRemembered) return join_short(p, size, out);
        const uint64_t hash = bpe_hashed(p, size);
        Word* found = slot(hash, p, size);
        if (found->size) {
            for (int i = 0; i < found->count; i++) out[i] = pool[found->first + i];
            return found->count;
        }
        const int64_t count = join_short(p, size, out);
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
    if (count >= kNone) return nullptr;  // no vocabulary has sixteen million tokens
    std::unique_ptr<danlu_bpe> made(new danlu_bpe);
    made->cut.classes.assign(classes, classes + class_count);
    std::memcpy(made->byte_ids, byte_ids, sizeof made->byte_ids);
    uint64_t slots = 16;
    while (slots < uint64_t(count) * 2) slots *= 2;
    made->merges.resize(slots), made->merge_mask = slots - 1;
    for (int64_t i = 0; i < count; i++) {
        const uint64_t pair = uint64_t(uint32_t(merges[3 * i])) << 32 | uint32_t(merges[3 * i + 1]);
        uint64_t s = bpe_mixed(pair * kBase) & made->merge_mask;
        while (made->merges[s].pair != ~uint64_t(0) && made->merges[s].pair != pair) s = (s + 1) & made->merge_mask;
        made->merges[s].pair = pair, made->merges[s].rank = int32_t(i), made->merges[s].token = merges[3 * i + 2];
    }
    made->reach.build(byte_ids, merges, count);
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
