// Signatures in plain loops: what every other file of this folder must equal, and what a CPU without its own file runs.
#include "text/text.h"

namespace {

// A byte of a word in lower case, 0 for a separator; bytes of other scripts than ASCII's are all part of words.
inline uint8_t fold(uint8_t c) {
    if (c >= 'A' && c <= 'Z') return c + 32;
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c >= 0x80 ? c : 0;
}

struct Text {
    const uint8_t* bytes;
    int64_t count;

    uint8_t at(int64_t i) const { return i >= 0 && i < count ? bytes[i] : 0; }

    // Unicode punctuation of three bytes begins here: U+2000-203F, U+3000-303F, and the full-width signs.
    bool sign(int64_t i) const {
        const uint8_t first = at(i), second = at(i + 1);
        return ((first == 0xE2 || first == 0xE3) && second == 0x80) || (first == 0xEF && second == 0xBC && at(i + 2) < 0xA1);
    }
    uint8_t folded(int64_t i) const { return sign(i) || sign(i - 1) || sign(i - 2) ? 0 : fold(at(i)); }

    // A CJK character, U+3000-9FFF: a word of its own.
    bool lead(int64_t i) const { return at(i) >= 0xE3 && at(i) <= 0xE9 && folded(i); }
    bool begins(int64_t i) const {
        return folded(i) && (!folded(i - 1) || lead(i) || (lead(i - 3) && folded(i - 2)));
    }
};

int64_t words(Text text, uint64_t* out) {
    int64_t count = 0;
    uint64_t sum = 0, power = 1;
    for (int64_t i = 0; i < text.count; i++) {
        if (text.begins(i)) {
            if (count) out[count - 1] = text_mixed(sum);
            count++;
            sum = 0, power = 1;
        }
        sum += text.folded(i) * power;
        power *= kBase;
    }
    if (count) out[count - 1] = text_mixed(sum);
    return count;
}

}  // namespace

DANLU_SIGN(ref) {
    if (!text_sizes_hold(*in, flat_count)) return DANLU_BAD_SIZE;
    uint8_t ranks[kMinima * kMinima];
    text_ranks(in->order, ranks);
    starts[0] = 0;
    for (int64_t t = 0, begin = 0; t < in->texts; begin = in->ends[t++]) {
        uint64_t* own = flat + starts[t];
        const int64_t count = text_join(own, words({in->bytes + begin, in->ends[t] - begin}, own), in->places);
        starts[t + 1] = starts[t] + count;
        if (in->order) {
            text_once(own, count, in->order, ranks, least + t * kMinima);
            continue;
        }
        for (int64_t k = 0; k < kMinima; k++) {
            uint32_t best = UINT32_MAX;
            for (int64_t i = 0; i < count; i++) {
                const uint32_t moved = uint32_t(own[i] >> 32) * in->factors[k] + in->addends[k];
                best = moved < best ? moved : best;
            }
            least[t * kMinima + k] = best;
        }
    }
    return DANLU_OK;
}
