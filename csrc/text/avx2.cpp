// Signatures with AVX2. Bytes are classed 64 at a time into bit masks: which belong to words, and which begin one. A word is
// then hashed from one or two 8-byte loads, and every shingle meets the permutations 32 and 40 at a time, in registers.
// Functions carry the target as an attribute, for the reason given in q4/avx2.h.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>
#include <memory>
#include <new>

#include "text/text.h"

#define AVX2 __attribute__((target("avx2")))

namespace {

constexpr int64_t kBlock = 64;   // bytes classed at a time: one bit each of a machine word
constexpr int64_t kAhead = 2;    // bytes after a block that decide what its last bytes are
constexpr int64_t kChunk = 1024; // shingles that stay in the first-level cache while all permutations pass

struct Masks {
    uint64_t word, begin;
};

struct Carry {
    uint64_t sign = 0, word = 0, lead = 0;  // of the block before
};

struct Powers {
    uint64_t of[8];
    uint64_t next;
};

constexpr Powers powers() {
    Powers p{};
    uint64_t x = 1;
    for (int j = 0; j < 8; j++, x *= kBase) p.of[j] = x;
    p.next = x;
    return p;
}
constexpr Powers kPowers = powers();

AVX2 inline __m256i is(__m256i x, uint8_t c) { return _mm256_cmpeq_epi8(x, _mm256_set1_epi8(char(c))); }
AVX2 inline __m256i most(__m256i x, uint8_t c) { return _mm256_cmpeq_epi8(_mm256_min_epu8(x, _mm256_set1_epi8(char(c))), x); }
AVX2 inline __m256i least(__m256i x, uint8_t c) { return _mm256_cmpeq_epi8(_mm256_max_epu8(x, _mm256_set1_epi8(char(c))), x); }
AVX2 inline __m256i within(__m256i x, uint8_t a, uint8_t b) { return _mm256_and_si256(least(x, a), most(x, b)); }
AVX2 inline __m256i load(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
AVX2 inline uint64_t bits(__m256i low, __m256i high) {
    return uint32_t(_mm256_movemask_epi8(low)) | uint64_t(uint32_t(_mm256_movemask_epi8(high))) << 32;
}

AVX2 inline __m256i sign(const uint8_t* p) {
    const __m256i x = load(p), second = load(p + 1);
    const __m256i general = _mm256_and_si256(within(x, 0xE2, 0xE3), is(second, 0x80));
    const __m256i wide = _mm256_and_si256(_mm256_and_si256(is(x, 0xEF), is(second, 0xBC)), most(load(p + 2), 0xA0));
    return _mm256_or_si256(general, wide);
}

// Class the block at p, of which kAhead more bytes can be read, and write it in lower case.
AVX2 inline Masks classed(const uint8_t* p, uint8_t* folded, Carry& carry) {
    __m256i x[2], in_word[2];
    for (int i = 0; i < 2; i++) {
        x[i] = load(p + 32 * i);
        const __m256i upper = within(x[i], 'A', 'Z');
        const __m256i lower = _mm256_or_si256(x[i], _mm256_and_si256(upper, _mm256_set1_epi8(32)));
        in_word[i] = _mm256_or_si256(_mm256_or_si256(within(lower, 'a', 'z'), within(x[i], '0', '9')), x[i]);
        _mm256_storeu_si256((__m256i*)(folded + 32 * i), lower);
    }
    uint64_t word = bits(in_word[0], in_word[1]);  // takes the top bit of each byte: set in every byte of other scripts
    uint64_t lead = 0, signs = 0;
    if (bits(x[0], x[1]) | carry.sign) {
        signs = bits(sign(p), sign(p + 32));
        word &= ~(signs | signs << 1 | signs << 2 | carry.sign >> 63 | carry.sign >> 62);
        lead = bits(within(x[0], 0xE3, 0xE9), within(x[1], 0xE3, 0xE9)) & word;
    }
    const uint64_t before = word << 1 | carry.word >> 63, before2 = word << 2 | carry.word >> 62;
    const uint64_t ended = (lead << 3 | carry.lead >> 61) & before2;
    carry = {signs, word, lead};
    return {word, word & (~before | lead | ended)};
}

// Class a whole text; returns the number of blocks. `folded` has room for whole blocks, `masks` for as many.
AVX2 int64_t class_all(const uint8_t* text, int64_t count, uint8_t* folded, Masks* masks) {
    Carry carry;
    int64_t at = 0, blocks = 0;
    for (; at + kBlock + kAhead <= count; at += kBlock) masks[blocks++] = classed(text + at, folded + at, carry);
    uint8_t last[3 * kBlock] = {};
    std::memcpy(last, text + at, count - at);
    for (int64_t i = 0; at < count; at += kBlock, i += kBlock) masks[blocks++] = classed(last + i, folded + at, carry);
    return blocks;
}

// Hash of the `size` bytes at p, of which eight can be read beyond the last.
inline uint64_t hashed(const uint8_t* p, int64_t size) {
    if (size <= 3) {  // a Chinese character, "of", "the": two words of five in English, nearly all in Chinese
        uint32_t x;
        std::memcpy(&x, p, 4);
        x &= ~uint32_t(0) >> (32 - 8 * size);
        return text_mixed((x & 255) + (x >> 8 & 255) * kPowers.of[1] + (x >> 16) * kPowers.of[2]);
    }
    uint64_t sum = 0, scale = 1;
    for (;; p += 8, size -= 8, scale *= kPowers.next) {
        uint64_t x, part = 0;
        std::memcpy(&x, p, 8);
        if (size < 8) x &= ~uint64_t(0) >> (64 - 8 * size);
        for (int j = 0; j < 8; j++) part += (x >> 8 * j & 255) * kPowers.of[j];
        sum += part * scale;
        if (size <= 8) return text_mixed(sum);
    }
}

AVX2 int64_t words(const uint8_t* folded, const Masks* masks, int64_t blocks, uint64_t* out) {
    int64_t count = 0;
    for (int64_t b = 0; b < blocks; b++) {
        const uint64_t stops = ~masks[b].word | masks[b].begin;
        for (uint64_t left = masks[b].begin; left; left &= left - 1) {
            const int start = __builtin_ctzll(left);
            uint64_t after = stops & ~((uint64_t(2) << start) - 1);
            int64_t block = b;
            while (!after && ++block < blocks) after = ~masks[block].word | masks[block].begin;
            const int64_t stop = after ? block * kBlock + __builtin_ctzll(after) : blocks * kBlock;
            const int64_t begin = b * kBlock + start;
            out[count++] = hashed(folded + begin, stop - begin);
        }
    }
    return count;
}

// Lower `best` to the least value of N * 8 permutations over `count` shingles, of which the upper halves count.
template <int N>
AVX2 inline void lower(const uint64_t* flat, int64_t count, const uint32_t* factors, const uint32_t* addends, uint32_t* best) {
    __m256i factor[N], addend[N], low[N];
    for (int n = 0; n < N; n++) {
        factor[n] = _mm256_loadu_si256((const __m256i*)(factors + 8 * n));
        addend[n] = _mm256_loadu_si256((const __m256i*)(addends + 8 * n));
        low[n] = _mm256_loadu_si256((const __m256i*)(best + 8 * n));
    }
    for (int64_t i = 0; i < count; i++) {
        const __m256i x = _mm256_set1_epi32(int(flat[i] >> 32));
        for (int n = 0; n < N; n++)
            low[n] = _mm256_min_epu32(low[n], _mm256_add_epi32(_mm256_mullo_epi32(x, factor[n]), addend[n]));
    }
    for (int n = 0; n < N; n++) _mm256_storeu_si256((__m256i*)(best + 8 * n), low[n]);
}

AVX2 void minima(const danlu_texts& in, const uint64_t* flat, int64_t count, uint32_t* best) {
    static_assert(kMinima == 8 * (5 + 5 + 4), "the three calls below");
    std::memset(best, 255, kMinima * sizeof *best);
    for (int64_t i = 0; i < count; i += kChunk) {
        const int64_t here = count - i < kChunk ? count - i : kChunk;
        lower<5>(flat + i, here, in.factors, in.addends, best);
        lower<5>(flat + i, here, in.factors + 40, in.addends + 40, best + 40);
        lower<4>(flat + i, here, in.factors + 80, in.addends + 80, best + 80);
    }
}

}  // namespace

DANLU_SIGN(avx2) {
    if (!text_sizes_hold(*in, flat_count)) return DANLU_BAD_SIZE;
    int64_t longest = 0;
    for (int64_t t = 0, begin = 0; t < in->texts; begin = in->ends[t++])
        if (in->ends[t] - begin > longest) longest = in->ends[t] - begin;
    const int64_t blocks = (longest + kBlock - 1) / kBlock;
    std::unique_ptr<uint8_t[]> folded(new (std::nothrow) uint8_t[blocks * kBlock + 8]);
    std::unique_ptr<Masks[]> masks(new (std::nothrow) Masks[blocks + 1]);
    if (!folded || !masks) return DANLU_NO_MEMORY;
    std::memset(folded.get() + blocks * kBlock, 0, 8);
    uint8_t ranks[kMinima * kMinima];
    text_ranks(in->order, ranks);
    starts[0] = 0;
    for (int64_t t = 0, begin = 0; t < in->texts; begin = in->ends[t++]) {
        uint64_t* own = flat + starts[t];
        const int64_t used = class_all(in->bytes + begin, in->ends[t] - begin, folded.get(), masks.get());
        const int64_t count = text_join(own, words(folded.get(), masks.get(), used, own), in->places);
        starts[t + 1] = starts[t] + count;
        if (in->order)
            text_once(own, count, in->order, ranks, least + t * kMinima);
        else
            minima(*in, own, count, least + t * kMinima);
    }
    return DANLU_OK;
}
#endif
