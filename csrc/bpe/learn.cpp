// Learning a vocabulary: count words, then join the most frequent pair of neighbours again and again (Sennrich et al. 2016).
// The merges are those of the tokenizers package, its bookkeeping included: among equal counts the pair of the least tokens
// comes first, and a pair that was joined keeps its count.
#include <algorithm>
#include <memory>
#include <new>
#include <queue>
#include <string>
#include <unordered_map>

#include "bpe/pairs.h"
#include "bpe/words.h"

namespace {

constexpr size_t kAhead = 16;  // places fetched before they are joined
constexpr int32_t kEdge = -1;  // stands between two words
constexpr int32_t kInside = -2;
constexpr int64_t kRare = 64;  // the last pair joined stands more often than once in so many bytes of different words, for each token

struct Counted {
    uint64_t hash = 0;
    int64_t first = 0, size = 0, count = 0;  // place and bytes in the pool
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

namespace {

// All words as tokens. A token is written at its first byte and at its last one, so that its neighbours are found from both
// sides, and joining touches four places.
struct Learner {
    std::vector<int32_t> tokens;
    std::vector<int32_t> owner;   // the word at each place; beside the tokens it would push them out of the cache
    std::vector<int32_t> sizes;   // bytes of each token
    std::vector<int64_t> counts;  // of each word in the texts
    std::vector<int32_t> starts;  // where each word begins
    int32_t singles = 0;          // from here on all words stand once in the texts
    // Pairs that stand less often are not kept: as every new pair has a token that is new, it is met but once, and stands no
    // more often later. Only where two merges spell the same token, or such a pair's turn would come, must all be known.
    int64_t least = 1;
    bool is_lost = false;  // that has come
    std::vector<std::string> spelled;
    std::unordered_map<std::string, int32_t> named;
    Pairs pairs;
    std::vector<int32_t> places;
    std::priority_queue<Candidate> queue;
    Side before, behind;
    int32_t left = 0, right = 0, joined = 0;  // of the merge under way

    // Join the pair that begins at `at`, if it still does.
    void join(int32_t at) {
        int32_t *const first = &tokens[at], *const second = first + sizes[left], *const end = second + sizes[right];
        if (*first != left || *second != right) return;
        const int64_t count = at >= singles ? 1 : counts[owner[at]];
        const int32_t ahead = first[-1], next = *end;
        second[-1] = *second = kInside;
        *first = end[-1] = joined;
        if (ahead >= 0) before.add(ahead, at - sizes[ahead], count);
        if (next >= 0) behind.add(next, at, count);
    }

    // A pair that came up in two merges has two lists. As in the package, the first to come joins it in the whole word.
    void join_word(int32_t word) {
        for (int32_t at = starts[word]; tokens[at] >= 0; at += sizes[tokens[at]]) join(at);
    }

    void join_all(const Candidate& top) {
        const bool whole = pairs.at(top.key).lists > 1;
        for (int64_t i = top.first; i < top.first + top.size; i++) {
            if (i + int64_t(kAhead) < top.first + top.size) {
                const int32_t soon = places[i + kAhead];
                __builtin_prefetch(&tokens[soon]);
                if (soon < singles) __builtin_prefetch(&owner[soon]);
            }
            if (whole) join_word(owner[places[i]]);
            else join(places[i]);
        }
    }

    // Where the joined token was known before, it may stand on both sides of itself: that is one pair, and one list.
    void gather_twins() {
        if (!before.of[joined].places || !behind.of[joined].places) return;
        for (const auto& [token, place] : behind.found)
            if (token == joined) before.add(joined, place, 0);
        before.of[joined].count += behind.of[joined].count;
        behind.of[joined] = {};
        pairs.at(key_of(joined, joined)).lists++;  // its places do not rise
    }

    // What the joined token stands for has gone from each neighbour's side.
    void count_gone() {
        const auto of_left = [&](int32_t token) { return key_of(token, left); };
        const auto of_right = [&](int32_t token) { return key_of(right, token); };
        const auto less = [&](uint64_t key, const Side& side, int32_t token) {
            // Of two in a row, the pair with what is left of the second came and went within this merge: it is still to come.
            if (Pair* pair = token == joined ? &pairs.at(key) : pairs.find(key)) pair->count -= side.of[token].count;
        };
        pairs.each(before.met, of_left, [&](uint64_t key, int32_t token) { less(key, before, token); });
        pairs.each(behind.met, of_right, [&](uint64_t key, int32_t token) { less(key, behind, token); });
    }

    // The pairs of the joined token and each neighbour on that side have come.
    void queue_side(Side& side, bool is_before) {
        int64_t first = int64_t(places.size());
        const auto key = [&](int32_t token) { return is_before ? key_of(token, joined) : key_of(joined, token); };
        const auto is_rare = [&](int32_t token) {
            Side::Neighbour& own = side.of[token];
            if (own.count < least) own = {};
            return !own.places;
        };
        side.met.erase(std::remove_if(side.met.begin(), side.met.end(), is_rare), side.met.end());
        pairs.each(side.met, key, [&](uint64_t name, int32_t token) {
            Side::Neighbour& own = side.of[token];
            Pair& pair = pairs.at(name);
            pair.count += own.count;
            if (pair.count <= 0) own.places = 0;
            if (!own.places) return;
            pair.lists++;
            queue.push({pair.count, pair.key, first, own.places});
            own.count = first, first += own.places;
        });
        places.resize(first);
        for (const auto& [token, place] : side.found)
            if (side.of[token].places) places[side.of[token].count++] = place;
        for (const int32_t token : side.met) side.of[token] = {};
        side.met.clear(), side.found.clear();
    }

    int32_t token_of() {
        std::string text = spelled[left] + spelled[right];
        const auto [found, is_new] = named.try_emplace(text, int32_t(spelled.size()));
        if (is_new) {
            sizes.push_back(int32_t(text.size())), spelled.push_back(std::move(text));
            before.of.emplace_back(), behind.of.emplace_back();
        }
        is_lost |= !is_new && least > 1;
        return found->second;
    }

    void add_word(const uint8_t* bytes, int64_t size, int64_t count, const int32_t* byte_ids) {
        const int32_t word = int32_t(counts.size());
        starts.push_back(int32_t(tokens.size()));
        for (int64_t i = 0; i < size; i++) tokens.push_back(byte_ids[bytes[i]]);
        tokens.push_back(kEdge);
        owner.resize(tokens.size(), word);
        counts.push_back(count);
    }

    // The words of texts; false where they are too many.
    bool take(const danlu_bpe_counts& texts, const int32_t* byte_ids) {
        sizes.assign(1 + *std::max_element(byte_ids, byte_ids + 256), 1), spelled.resize(sizes.size());
        before.of.resize(sizes.size()), behind.of.resize(sizes.size());
        for (int byte = 0; byte < 256; byte++) {
            spelled[byte_ids[byte]] = std::string(1, char(byte));
            named[spelled[byte_ids[byte]]] = byte_ids[byte];
        }
        tokens.reserve(texts.pool.size() + texts.known + 1), owner.reserve(tokens.capacity());
        if (tokens.capacity() > INT32_MAX) return false;
        tokens.push_back(kEdge), owner.push_back(0);
        for (int once = 0; once < 2; once++) {
            singles = int32_t(tokens.size());
            for (const Counted& each : texts.words)
                if (each.count && (each.count == 1) == once) add_word(texts.pool.data() + each.first, each.size, each.count, byte_ids);
        }
        return true;
    }

    // Count the pairs of bytes and list their places.
    void begin() {
        const int64_t width = int64_t(sizes.size());
        std::vector<Side::Neighbour> all(width * width);
        const auto each_pair = [&](auto&& work) {
            for (int64_t i = 1; i + 1 < int64_t(tokens.size()); i++)
                if (tokens[i] >= 0 && tokens[i + 1] >= 0) work(all[tokens[i] * width + tokens[i + 1]], i);
        };
        each_pair([&](Side::Neighbour& pair, int64_t i) { pair.count += counts[owner[i]], pair.places++; });
        int64_t first = 0;
        for (int64_t k = 0; k < width * width; k++) {
            if (!all[k].places) continue;
            if (all[k].count < least) {
                all[k].places = 0;
                continue;
            }
            const uint64_t key = key_of(int32_t(k / width), int32_t(k % width));
            Pair& pair = pairs.at(key);
            pair.count = all[k].count, pair.lists = 1;
            queue.push({pair.count, key, first, all[k].places});
            all[k].count = first, first += all[k].places;
        }
        places.reserve(4 * first);  // memory that is not touched costs nothing
        places.resize(first);
        each_pair([&](Side::Neighbour& pair, int64_t i) {
            if (pair.places) places[pair.count++] = int32_t(i);
        });
    }

    int64_t learn(int64_t vocab, int32_t* merges, int64_t room) {
        int64_t made = 0;
        while (int64_t(spelled.size()) < vocab && !queue.empty()) {
            Candidate top = queue.top();
            queue.pop();
            const int64_t now = pairs.at(top.key).count;
            if (top.count != now) {
                top.count = now;
                if (now >= least) queue.push(top);
                continue;
            }
            if (made == room) return -2;
            left = int32_t(top.key >> 32), right = int32_t(top.key), joined = token_of();
            if (is_lost) break;
            merges[3 * made] = left, merges[3 * made + 1] = right, merges[3 * made + 2] = joined, made++;
            join_all(top);
            count_gone();
            gather_twins();
            queue_side(before, true), queue_side(behind, false);
        }
        is_lost |= least > 1 && int64_t(spelled.size()) < vocab;
        return made;
    }
};

}  // namespace

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
    for (int64_t least = 1 + int64_t(counts->pool.size()) / (kRare * std::max(vocab, int64_t(1)));; least = 1) {
        Learner learner;
        learner.least = least;
        if (!learner.take(*counts, byte_ids)) return -1;
        learner.begin();
        const int64_t made = learner.learn(vocab, merges, room);
        if (!learner.is_lost) return made;
    }
} catch (const std::bad_alloc&) {
    return -1;
}
