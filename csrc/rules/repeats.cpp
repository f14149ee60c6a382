// Repeated runs of words. A run of n + 1 words can only stand twice where both runs of n in it do, so each length looks at
// what the one before left: most texts are done after four words.
#include <cstddef>

#include "rules/rules.h"

namespace danlu_rules {
namespace {

constexpr uint64_t kNext = 0x9E3779B97F4A7C15;
constexpr uint64_t kRooms = 8;  // counters for each run: of runs that stand once, one of nine is taken for another
constexpr size_t kAhead = 12;  // runs whose places in the table are fetched meanwhile

inline uint64_t mixed(uint64_t x) {
    x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93;
    return x ^ (x >> 32);
}

}  // namespace

// Leave in `places` the runs whose hash another one has: those that stand once need no place in a table. A byte for each of
// kRooms hashes stays in the first cache, and nothing branches.
void Repeats::leave_repeated() {
    uint64_t rooms = 64;
    while (rooms < kRooms * places.size()) rooms *= 2;
    const int shift = 64 - __builtin_ctzll(rooms);
    times.assign(rooms, 0);
    for (const int32_t i : places) {
        uint8_t& met = times[grams[i] * kNext >> shift];
        met = uint8_t(met + (met < 2));
    }
    size_t left = 0;
    for (const int32_t i : places) {
        places[left] = i;
        left += times[grams[i] * kNext >> shift] == 2;
    }
    places.resize(left);
}

void Repeats::count(const std::vector<Span>& words, const uint64_t* hashes, int64_t* row) {
    const int32_t total = int32_t(words.size());
    std::vector<int64_t>& ends = sizes;
    ends.resize(total + 1), grams.resize(total), places.resize(total), own.resize(total);
    ends[0] = 0;
    for (int32_t i = 0; i < total; i++) ends[i + 1] = ends[i] + words[i].size();
    // Pairs come first: most words stand twice, so that looking for those that do not costs more than it leaves out.
    int32_t pairs = total < 2 ? 0 : total - 1;
    for (int32_t i = 0; i < pairs; i++) places[i] = i, grams[i] = hashes[i] * kNext + hashes[i + 1];
    places.resize(pairs);
    for (int n = 2; n <= 10; n++) {
        if (n > 2) {  // of the runs left, those whose next word begins one that is left too; each a word longer
            size_t left = 0;
            for (size_t j = 0; j + 1 < places.size(); j++) {
                const int32_t i = places[j];
                if (places[j + 1] != i + 1 || i + n > total) continue;
                grams[i] = grams[i] * kNext + hashes[i + n - 1];
                places[left++] = i;
            }
            places.resize(left);
        }
        if (places.empty() && n > 4) break;
        leave_repeated();
        uint64_t size = 16;
        while (size < 2 * places.size()) size *= 2;
        runs.assign(places.empty() ? 0 : size, Run{0, 0, 0});
        for (size_t j = 0; j < places.size(); j++) {
            if (j + kAhead < places.size()) __builtin_prefetch(&runs[mixed(grams[places[j + kAhead]]) & (size - 1)]);
            const uint64_t key = grams[places[j]];
            uint64_t s = mixed(key) & (size - 1);
            while (runs[s].count && runs[s].key != key) s = (s + 1) & (size - 1);
            if (!runs[s].count) runs[s].key = key, runs[s].first = places[j];
            runs[s].count++;
            own[j] = int32_t(s);
        }
        int32_t most = 1, top = 0;  // where every run stands once, the text's first one stands for all
        size_t left = 0;
        for (size_t j = 0; j < places.size(); j++) {
            const Run& run = runs[own[j]];
            if (run.count == 1) continue;
            if (run.count > most) most = run.count, top = run.first;
            places[left] = places[j], own[left++] = own[j];
        }
        places.resize(left);
        if (n <= 4 && total >= n) row[kTop2 + n - 2] = (ends[top + n] - ends[top] + n - 1) * most;
        if (n < 5) continue;
        // A run that stood before counts whole, and what follows it is looked at after its end.
        int64_t chars = 0, from = 0;
        for (size_t j = 0; j < places.size(); j++) {
            const int32_t i = places[j];
            if (i < from) continue;
            int32_t& seen = runs[own[j]].first;
            if (seen < 0) chars += ends[i + n] - ends[i], from = i + n;
            seen = -1;
        }
        row[kDup5 + n - 5] = chars;
    }
}

}  // namespace danlu_rules
