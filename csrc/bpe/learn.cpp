// Learning a vocabulary: count words, then join the most frequent pair of neighbours again and again (Sennrich et al. 2016).
// The merges are those of the tokenizers package, its bookkeeping included: among equal counts the pair of the least tokens
// comes first, and a pair that was joined keeps its count.
#include <algorithm>
#include <memory>
#include <new>
#include <queue>
#include <string>
#include <unordered_map>

#include "bpe/words.h"

namespace {

constexpr size_t kAhead = 8;  // words fetched before they are joined

struct Counted {
    uint64_t hash = 0;
    int64_t first = 0, size = 0, count = 0;  // place and bytes in the pool
};

struct Pair {
    uint64_t key = ~uint64_t(0);
    int64_t count = 0;
    int32_t fresh = -1;  // its place among the pairs that the merge under way has made
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

   private:
    Pair& place(uint64_t key) {
        const uint64_t mask = slots.size() - 1;
        uint64_t s = bpe_mixed(key * kBase) & mask;
        while (slots[s].key != key && slots[s].key != ~uint64_t(0)) s = (s + 1) & mask;
        return slots[s];
    }
};

struct Candidate {
    int64_t count;
    uint64_t key;
    int32_t where;  // number of its list of words
    bool operator<(const Candidate& other) const { return count != other.count ? count < other.count : key > other.key; }
};

inline uint64_t key_of(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }

// A word as tokens: where they begin, how many are left, how often the word stands in the texts.
struct Word {
    int64_t first, count;
    int32_t size;
};

// Every word as tokens, and where each pair stands.
struct Learner {
    std::vector<int32_t> tokens;
    std::vector<Word> words;
    std::vector<std::string> spelled;  // bytes of each token, once the bytes' own have been given
    std::unordered_map<std::string, int32_t> named;
    Pairs pairs;
    std::vector<std::vector<int32_t>> where;
    std::priority_queue<Candidate> queue;
    std::vector<std::pair<uint64_t, int32_t>> fresh;  // pairs that the merge under way has made, and their lists

    void stands(uint64_t key, int32_t word, int64_t count) {
        Pair& pair = pairs.at(key);
        pair.count += count;
        if (pair.fresh < 0) {
            pair.fresh = int32_t(fresh.size());
            fresh.emplace_back(key, int32_t(where.size()));
            where.emplace_back();
        }
        std::vector<int32_t>& list = where[fresh[pair.fresh].second];
        if (list.empty() || list.back() != word) list.push_back(word);
    }

    void queue_fresh() {
        for (const auto& [key, list] : fresh) {
            Pair& pair = pairs.at(key);
            pair.fresh = -1;
            if (pair.count > 0) queue.push({pair.count, key, list});
        }
        fresh.clear();
    }

    void join(int32_t word, int32_t left, int32_t right, int32_t joined) {
        int32_t* own = tokens.data() + words[word].first;
        const int64_t count = words[word].count;
        int32_t size = words[word].size, made = 0;
        for (int32_t i = 0; i < size; made++) {
            if (own[i] != left || i + 1 == size || own[i + 1] != right) {
                own[made] = own[i++];
                continue;
            }
            i += 2;
            if (made) {
                pairs.at(key_of(own[made - 1], left)).count -= count;
                stands(key_of(own[made - 1], joined), word, count);
            }
            own[made] = joined;
            if (i < size) {
                pairs.at(key_of(right, own[i])).count -= count;
                stands(key_of(joined, own[i]), word, count);
            }
        }
        words[word].size = made;
    }

    // Words of a pair lie far apart, and each is short: they are fetched while others are joined.
    void join_all(const std::vector<int32_t>& list, int32_t left, int32_t right, int32_t joined) {
        const size_t count = list.size();
        for (size_t i = 0; i < count; i++) {
            if (i + 2 * kAhead < count) __builtin_prefetch(&words[list[i + 2 * kAhead]]);
            if (i + kAhead < count) {
                const int32_t* own = tokens.data() + words[list[i + kAhead]].first;
                __builtin_prefetch(own), __builtin_prefetch(own + 16);
            }
            join(list[i], left, right, joined);
        }
    }

    int32_t token_of(int32_t left, int32_t right) {
        std::string text = spelled[left] + spelled[right];
        const auto [found, is_new] = named.try_emplace(text, int32_t(spelled.size()));
        if (is_new) spelled.push_back(std::move(text));
        return found->second;
    }

    int64_t learn(int64_t vocab, int32_t* merges, int64_t room) {
        int64_t made = 0;
        while (int64_t(spelled.size()) < vocab && !queue.empty()) {
            Candidate top = queue.top();
            queue.pop();
            const int64_t now = pairs.at(top.key).count;
            if (top.count != now) {
                if (now > 0) queue.push({now, top.key, top.where});
                continue;
            }
            if (made == room) return -2;
            const int32_t left = int32_t(top.key >> 32), right = int32_t(top.key), joined = token_of(left, right);
            merges[3 * made] = left, merges[3 * made + 1] = right, merges[3 * made + 2] = joined, made++;
            const std::vector<int32_t> list = std::move(where[top.where]);
            join_all(list, left, right, joined);
            queue_fresh();
        }
        return made;
    }
};

}  // namespace

struct danlu_bpe_counts {
    danlu_bpe_words cut;
    std::vector<Counted> words = std::vector<Counted>(1 << 14);
    std::vector<uint8_t> pool;
    uint64_t known = 0;

    void add(const uint8_t* p, int64_t size, int64_t count) {
        if (2 * known > words.size()) {
            std::vector<Counted> old(2 * words.size());
            old.swap(words);
            for (const Counted& each : old)
                if (each.count) slot(each.hash, pool.data() + each.first, each.size) = each;
        }
        const uint64_t hash = bpe_hashed(p, size);
        Counted& found = slot(hash, p, size);
        if (!found.count) {
            found.hash = hash, found.first = int64_t(pool.size()), found.size = size, known++;
            pool.insert(pool.end(), p, p + size);
        }
        found.count += count;
    }

   private:
    Counted& slot(uint64_t hash, const uint8_t* p, int64_t size) {
        const uint64_t mask = words.size() - 1;
        uint64_t s = hash & mask;
        while (words[s].count && (words[s].hash != hash || words[s].size != size ||
                                  !bpe_same(pool.data() + words[s].first, p, size)))
            s = (s + 1) & mask;
        return words[s];
    }
};

DANLU_API danlu_bpe_counts* danlu_bpe_counts_new(const uint8_t* classes, int64_t class_count) try {
    std::unique_ptr<danlu_bpe_counts> made(new danlu_bpe_counts);
    made->cut.classes.assign(classes, classes + class_count);
    return made.release();
} catch (const std::bad_alloc&) {
    return nullptr;
}

DANLU_API void danlu_bpe_counts_free(danlu_bpe_counts* counts) { delete counts; }

DANLU_API int danlu_bpe_count(danlu_bpe_counts* counts, const uint8_t* bytes, const int64_t* ends, int64_t texts,
                              int32_t are_words, uint8_t* unknown) try {
    std::vector<const uint8_t*> stops;
    for (int64_t t = 0, begin = 0; t < texts; begin = ends[t++]) {
        if (ends[t] < begin || ends[t] - begin > INT32_MAX) return DANLU_BAD_SIZE;
        const uint8_t *p = bytes + begin, *const end = bytes + ends[t];
        stops.clear();
        for (const uint8_t* at = p; at && at < end;) stops.push_back(at = are_words ? end : counts->cut.word_end(at, end));
        unknown[t] = !stops.empty() && !stops.back();
        if (unknown[t]) continue;  // of such a text nothing is counted
        for (const uint8_t* stop : stops) counts->add(p, stop - p, 1), p = stop;
    }
    return DANLU_OK;
} catch (const std::bad_alloc&) {
    return DANLU_NO_MEMORY;
}

DANLU_API int64_t danlu_bpe_learn(const danlu_bpe_counts* counts, const int32_t* byte_ids, int64_t vocab, int32_t* merges,
                                  int64_t room) try {
    Learner learner;
    learner.spelled.resize(1 + *std::max_element(byte_ids, byte_ids + 256));
    for (int byte = 0; byte < 256; byte++) {
        learner.spelled[byte_ids[byte]] = std::string(1, char(byte));
        learner.named[learner.spelled[byte_ids[byte]]] = byte_ids[byte];
    }
    for (const Counted& each : counts->words) {
        if (!each.count) continue;
        const int32_t word = int32_t(learner.words.size());
        learner.words.push_back({int64_t(learner.tokens.size()), each.count, int32_t(each.size)});
        for (int64_t i = 0; i < each.size; i++) {
            learner.tokens.push_back(byte_ids[counts->pool[each.first + i]]);
            if (i) learner.stands(key_of(learner.tokens.end()[-2], learner.tokens.back()), word, each.count);
        }
    }
    learner.queue_fresh();
    return learner.learn(vocab, merges, room);
} catch (const std::bad_alloc&) {
    return -1;
}
