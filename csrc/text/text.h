// One pass over documents: words, shingles of them, and the least values that make a MinHash signature.
//
// The rules are those of src/danlu/data/minhash.py, which also gives every constant; a text's result depends on that text
// alone, whatever its bytes.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/status.h"

constexpr int64_t kShingle = 5;   // words of a shingle
constexpr int64_t kMinima = 112;  // values of a signature
constexpr int64_t kFew = 48;       // shingles up to which asking the bins that have a value is faster
constexpr uint64_t kBase = 0x9E3779B97F4A7C15;

struct danlu_texts {
    const uint8_t* bytes;  // all texts, one after the other
    int64_t bytes_count;
    const int64_t* ends;   // where each text ends; it begins where the one before ends
    int64_t texts;
    const uint64_t* places;            // kShingle
    const uint32_t *factors, *addends;  // kMinima each
    const uint8_t* order;  // (kMinima, kMinima): signatures are made by one permutation, see text_once; null: by kMinima of them
};

// flat: the shingles' hashes of all texts, room for bytes_count + texts; starts (texts + 1): where each text's begin, and
// their number; least (texts, kMinima): the signatures.
#define DANLU_SIGN(isa)                                                                                      \
    DANLU_API int danlu_sign_##isa(const danlu_texts* in, uint64_t* flat, int64_t flat_count, int64_t* starts, \
                                   uint32_t* least)
DANLU_SIGN(ref);
DANLU_SIGN(avx2);

// Copy texts with every number, [0-9]+([.,][0-9]+)?, as "0". out: room for as many bytes as the texts have; out_ends (texts).
DANLU_API int danlu_same_numbers(const uint8_t* bytes, const int64_t* ends, int64_t texts, uint8_t* out, int64_t* out_ends);

inline bool text_sizes_hold(const danlu_texts& in, int64_t flat_count) {
    if (in.texts < 0 || in.bytes_count < 0 || flat_count < in.bytes_count + in.texts) return false;
    int64_t last = 0;
    for (int64_t i = 0; i < in.texts; i++) {
        if (in.ends[i] < last) return false;
        last = in.ends[i];
    }
    return last == in.bytes_count;
}

// Every bit of the result depends on every bit of x (the finaliser of SplitMix64).
inline uint64_t text_mixed(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

// One permutation of the shingles in kMinima bins (Li, Owen, Zhang 2012), the least value of each; a bin without any takes that
// of the first bin with some in its row of `order`, which is the same for all texts (Shrivastava 2017, arXiv:1703.04664). Where few
// bins have one, those are asked for their places (`ranks`), not the places for their bins.
inline void text_once(const uint64_t* flat, int64_t count, const uint8_t* order, const uint8_t* ranks, uint32_t* best) {
    uint32_t found[kMinima];
    for (int64_t k = 0; k < kMinima; k++) found[k] = UINT32_MAX;
    for (int64_t i = 0; i < count; i++) {
        uint32_t& least = found[(flat[i] & UINT32_MAX) * uint64_t(kMinima) >> 32];
        const uint32_t value = uint32_t(flat[i] >> 32);
        least = value < least ? value : least;
    }
    if (count > kFew) {
        for (int64_t k = 0; k < kMinima; k++) {
            best[k] = found[k];
            for (int64_t j = 0; best[k] == UINT32_MAX && j < kMinima; j++) best[k] = found[order[k * kMinima + j]];
        }
        return;
    }
    uint8_t first[kMinima];  // the least place in each row of a bin with a value
    std::memset(first, kMinima - 1, sizeof first);  // where all are without, any place will do
    for (int64_t bin = 0; bin < kMinima; bin++)
        for (int64_t k = 0; k < kMinima && found[bin] != UINT32_MAX; k++) {
            const uint8_t rank = ranks[bin * kMinima + k];
            first[k] = rank < first[k] ? rank : first[k];
        }
    for (int64_t k = 0; k < kMinima; k++) best[k] = found[k] != UINT32_MAX ? found[k] : found[order[k * kMinima + first[k]]];
}

// ranks (kMinima, kMinima): at [bin][k], the place of a bin in row k of `order`.
inline void text_ranks(const uint8_t* order, uint8_t* ranks) {
    for (int64_t k = 0; order && k < kMinima; k++)
        for (int64_t j = 0; j < kMinima; j++) ranks[order[k * kMinima + j] * kMinima + k] = uint8_t(j);
}

// Turn `count` words' hashes into their shingles' in place and return how many those are: at least one, since a text
// without words counts as the word "0", and one of fewer than kShingle words has one shingle of them all.
inline int64_t text_join(uint64_t* words, int64_t count, const uint64_t* places) {
    if (!count) words[count++] = text_mixed('0');
    if (count < kShingle) {
        uint64_t sum = 0;
        for (int64_t j = 0; j < count; j++) sum += words[j] * places[j];
        words[0] = text_mixed(sum);
        return 1;
    }
    const int64_t shingles = count - kShingle + 1;
    for (int64_t i = 0; i < shingles; i++) {
        uint64_t sum = 0;
        for (int64_t j = 0; j < kShingle; j++) sum += words[i + j] * places[j];
        words[i] = text_mixed(sum);
    }
    return shingles;
}
