// Repeated runs of words. A run of n + 1 words can only stand twice where both runs of n in it do, so each length looks at
// what the one before left: most texts are done after three words.
#include <cstring>

#include "rules/rules.h"

namespace danlu_rules {
namespace {

constexpr uint64_t kNext = 0x9E3779B97F4A7C15;

inline uint64_t mixed(uint64_t x) {
    x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93;
    return x ^ (x >> 32);
}

}  // namespace

void Repeats::count(const std::vector<Span>& words, const uint64_t* hashes, int64_t* row) {
    const int32_t total = int32_t(words.size());
    std::vector<int64_t>& ends = sizes;
    ends.resize(total + 1);
    ends[0] = 0;
    for (int32_t i = 0; i < total; i++) ends[i + 1] = ends[i] + words[i].size();
    grams.assign(hashes, hashes + total);
    places.resize(total);
    for (int32_t i = 0; i < total; i++) places[i] = i;  // runs that may stand twice
    int32_t slot_count = 64;
    while (slot_count < 2 * total) slot_count *= 2;
    keys.resize(slot_count), slots.resize(slot_count), counts.resize(total + 1), firsts.resize(total + 1), own.resize(total);
    for (int n = 1; n <= 10; n++) {
        if (n > 1) {  // of the runs left, those whose next word begins one that is left too; each a word longer
            size_t left = 0;
            for (size_t j = 0; j + 1 < places.size(); j++) {
                const int32_t i = places[j];
                if (places[j + 1] != i + 1 || i + n > total) continue;
                grams[i] = grams[i] * kNext + hashes[i + n - 1];
                places[left++] = i;
            }
            places.resize(left);
        }
        while (slot_count > 64 && slot_count >= 4 * int32_t(places.size())) slot_count /= 2;
        std::memset(slots.data(), 255, slot_count * sizeof slots[0]);
        int32_t kinds = 0, top = -1;
        for (size_t j = 0; j < places.size(); j++) {
            const uint64_t key = grams[places[j]];
            uint32_t s = uint32_t(mixed(key)) & (slot_count - 1);
            while (slots[s] >= 0 && keys[s] != key) s = (s + 1) & (slot_count - 1);
            if (slots[s] < 0) slots[s] = kinds, keys[s] = key, counts[kinds] = 0, firsts[kinds++] = places[j];
            own[j] = slots[s];
            counts[slots[s]]++;
        }
        if (n >= 2 && n <= 4 && total >= n) {
            for (int32_t k = 0; k < kinds; k++)
                if (top < 0 || counts[k] > counts[top]) top = k;
            const bool some = top >= 0 && counts[top] > 1;  // otherwise the text's first run stands for all
            const int32_t first = some ? firsts[top] : 0;
            row[kTop2 + n - 2] = (ends[first + n] - ends[first] + n - 1) * (some ? counts[top] : 1);
        }
        size_t left = 0;
        for (size_t j = 0; j < places.size(); j++)
            if (counts[own[j]] > 1) places[left] = places[j], own[left++] = own[j];
        places.resize(left);
        if (n < 5) continue;
        // A run that stood before counts whole, and what follows it is looked at after its end.
        int64_t chars = 0, from = 0;
        for (size_t j = 0; j < places.size(); j++) {
            const int32_t i = places[j];
            if (i < from) continue;
            int32_t& seen = firsts[own[j]];
            if (seen < 0) chars += ends[i + n] - ends[i], from = i + n;
            seen = -1;
        }
        row[kDup5 + n - 5] = chars;
    }
}

}  // namespace danlu_rules
