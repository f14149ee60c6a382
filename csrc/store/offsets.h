// Where the buckets of a pack begin: Elias-Fano, as src/danlu/store/offsets.py writes it (which is also the plain version).
#pragma once

#include <cstdint>

constexpr int64_t kMarkEvery = 64;  // offsets between two marks

struct danlu_offsets {
    const uint64_t* high;   // a one for every offset, at (distance >> shift) + its number
    const uint64_t* low;    // the last `shift` bits of every distance
    const uint32_t* marks;  // the place in `high` of every 64th one
    int64_t base, shift;
};

inline uint64_t offsets_low(const danlu_offsets& of, uint64_t number) {
    const uint64_t at = number * uint64_t(of.shift);
    const uint64_t* words = of.low + at / 64;
    const unsigned __int128 both = (unsigned __int128)words[1] << 64 | words[0];
    return uint64_t(both >> at % 64) & ((uint64_t(1) << of.shift) - 1);
}

// Offsets `number` and `number` + 1.
inline void offsets_pair(const danlu_offsets& of, uint64_t number, uint64_t* start, uint64_t* stop) {
    const uint64_t mark = of.marks[number / kMarkEvery];
    uint64_t word = mark / 64, bits = of.high[word] & ~uint64_t(0) << mark % 64;
    int skip = int(number % kMarkEvery);
    for (int ones; skip >= (ones = __builtin_popcountll(bits)); bits = of.high[++word]) skip -= ones;
    for (; skip; skip--) bits &= bits - 1;
    uint64_t one = word * 64 + uint64_t(__builtin_ctzll(bits));
    *start = uint64_t(of.base) + ((one - number) << of.shift | offsets_low(of, number));
    for (bits &= bits - 1; !bits;) bits = of.high[++word];
    one = word * 64 + uint64_t(__builtin_ctzll(bits));
    *stop = uint64_t(of.base) + ((one - number - 1) << of.shift | offsets_low(of, number + 1));
}

// Offsets `first` .. `last`, last included.
inline void offsets_run(const danlu_offsets& of, uint64_t first, uint64_t last, int64_t* out) {
    const uint64_t mark = of.marks[first / kMarkEvery];
    uint64_t word = mark / 64, bits = of.high[word] & ~uint64_t(0) << mark % 64;
    for (uint64_t number = first / kMarkEvery * kMarkEvery; number <= last; number++, bits &= bits - 1) {
        while (!bits) bits = of.high[++word];
        if (number < first) continue;
        const uint64_t one = word * 64 + uint64_t(__builtin_ctzll(bits));
        out[number - first] = of.base + int64_t((one - number) << of.shift | offsets_low(of, number));
    }
}
