// The counts of the quality rules, in plain loops over the characters of each text.
#include <cstring>
#include <new>

#include "rules/rules.h"

namespace danlu_rules {
namespace {

constexpr uint64_t kBase = 0x9E3779B97F4A7C15;
const char* const kPhrases[8] = {"lorem ipsum", "javascript", "terms of use", "privacy policy", "cookie policy", "uses cookies",
                                 "use of cookies", "use cookies"};
constexpr int64_t kShortLine = 30, kShortChinese = 15, kLongestWord = 1000, kLeastWords = 3, kLeastHan = 6;

inline uint64_t mixed(uint64_t x) {
    x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93;
    return x ^ (x >> 32);
}

// One UTF-8 character at p, of which `left` bytes can be read; a byte that begins none counts as U+FFFD.
inline int decode(const uint8_t* p, int64_t left, uint32_t& c) {
    const auto tail = [&](int i) { return i < left && (p[i] & 0xC0) == 0x80 ? p[i] & 0x3F : -1; };
    c = 0xFFFD;
    if (p[0] < 0x80) return c = p[0], 1;
    if (p[0] >= 0xC2 && p[0] < 0xE0 && tail(1) >= 0) return c = (p[0] & 31) << 6 | tail(1), 2;
    if ((p[0] & 0xF0) == 0xE0 && tail(1) >= 0 && tail(2) >= 0) return c = (p[0] & 15) << 12 | tail(1) << 6 | tail(2), 3;
    if ((p[0] & 0xF8) == 0xF0 && tail(1) >= 0 && tail(2) >= 0 && tail(3) >= 0)
        return c = (p[0] & 7) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4;
    return 1;
}

inline uint8_t* encode(uint32_t c, uint8_t* p) {
    if (c < 0x80) return *p++ = uint8_t(c), p;
    if (c < 0x800) return *p++ = uint8_t(0xC0 | c >> 6), *p++ = uint8_t(0x80 | (c & 63)), p;
    if (c < 0x10000) *p++ = uint8_t(0xE0 | c >> 12);
    else *p++ = uint8_t(0xF0 | c >> 18), *p++ = uint8_t(0x80 | (c >> 12 & 63));
    return *p++ = uint8_t(0x80 | (c >> 6 & 63)), *p++ = uint8_t(0x80 | (c & 63)), p;
}

// Which of the parts stood there before.
struct Seen {
    std::vector<uint64_t> keys;
    std::vector<Span> parts;
    uint64_t mask = 0;

    void begin(int64_t most) {
        uint64_t size = 16;
        while (int64_t(size) < 2 * most + 2) size *= 2;
        keys.assign(size, 0), mask = size - 1;
    }
    bool before(uint64_t key) {
        key += !key;
        uint64_t s = mixed(key) & mask;
        while (keys[s] && keys[s] != key) s = (s + 1) & mask;
        const bool known = keys[s] != 0;
        keys[s] = key;
        return known;
    }
};

struct Measure {
    std::vector<uint32_t> chars, line;
    std::vector<uint16_t> classes, line_classes;
    std::vector<uint64_t> sums, powers, hashes;
    std::vector<Span> words, line_words;
    Seen seen;
    Repeats repeats;
    const uint16_t* table = nullptr;
    int64_t size = 0;

    uint16_t class_of(uint32_t c) const { return c < kClasses ? table[c] : uint16_t(kAlpha | kCjk); }
    bool is(int64_t i, uint16_t names) const { return classes[i] & names; }
    bool spells(int64_t i, const char* text) const {
        for (; *text; text++, i++)
            if (i >= size || chars[i] != uint32_t(*text)) return false;
        return true;
    }
    uint64_t hash(Span part) const {  // of the characters, whatever stands before them; the length is part of it
        return mixed(sums[part.end] - sums[part.begin] * powers[part.size()]) + uint64_t(part.size());
    }

    void read(const uint8_t* bytes, int64_t count) {
        chars.resize(count + 1), classes.resize(count + 1), sums.resize(count + 1);
        while (int64_t(powers.size()) < count + 1) powers.push_back(powers.empty() ? 1 : powers.back() * kBase);
        size = 0;
        sums[0] = 0;
        for (int64_t i = 0; i < count; size++) {
            i += decode(bytes + i, count - i, chars[size]);
            classes[size] = class_of(chars[size]);
            sums[size + 1] = sums[size] * kBase + chars[size] + 1;
        }
    }

    void count_words(int64_t* row) {
        static const uint32_t kEnglish[8][5] = {{'t', 'h', 'e'}, {'b', 'e'}, {'t', 'o'}, {'o', 'f'}, {'a', 'n', 'd'},
                                                {'t', 'h', 'a', 't'}, {'h', 'a', 'v', 'e'}, {'w', 'i', 't', 'h'}};
        static const uint32_t kChinese[8] = {0x7684, 0x4E86, 0x662F, 0x5728, 0x548C, 0x4E0D, 0x6709, 0x8FD9};
        words.clear();
        words_of({chars.data(), classes.data(), size}, {0, size}, words);
        hashes.resize(words.size());
        uint32_t english = 0, chinese = 0;
        for (size_t w = 0; w < words.size(); w++) {
            const Span word = words[w];
            uint16_t any = 0, all = 0xFFFF;
            for (int64_t i = word.begin; i < word.end; i++) any |= classes[i], all &= classes[i];
            row[kAlphaWords] += (any & kAlpha) != 0;
            if (!(all & kSymbol)) row[kSpoken]++, row[kSpokenChars] += word.size();
            hashes[w] = hash(word);
            if (word.size() == 1)
                for (int k = 0; k < 8; k++) chinese |= uint32_t(chars[word.begin] == kChinese[k]) << k;
            if (word.size() < 2 || word.size() > 4) continue;
            for (int k = 0; k < 8; k++) {
                int64_t i = 0;
                while (i < word.size() && chars[word.begin + i] == kEnglish[k][i]) i++;
                english |= uint32_t(i == word.size() && !kEnglish[k][i]) << k;
            }
        }
        row[kWords] = int64_t(words.size());
        row[kStopWords] = __builtin_popcount(english), row[kChineseStops] = __builtin_popcount(chinese);
        repeats.count(words, hashes.data(), row);
    }

    void count_chars(int64_t* row) {
        row[kChars] = size;
        for (int64_t i = 0; i < size; i++) {
            const uint32_t c = chars[i];
            row[kHashes] += c == '#', row[kNewlines] += c == '\n', row[kEllipses] += c == 0x2026;
            row[kHan] += (classes[i] & kCjk) != 0;
            if (c != '.' || !spells(i, "...")) continue;
            row[kEllipses]++;
            i += 2;
        }
    }

    Span stripped(Span part) const {
        while (part.begin < part.end && is(part.begin, kBlank)) part.begin++;
        while (part.begin < part.end && is(part.end - 1, kBlank)) part.end--;
        return part;
    }

    // Where the line at `i` ends, and where the next one begins; any Unicode line end counts.
    int64_t line_end(int64_t i, int64_t& next) const {
        while (i < size && !is(i, kLineEnd)) i++;
        next = i + 1 + (i + 1 < size && chars[i] == '\r' && chars[i + 1] == '\n');
        return i;
    }

    void count_lines(int64_t* row) {
        for (int64_t i = 0, next = 0; i < size; i = next) {
            const Span line = stripped({i, line_end(i, next)});
            row[kLines]++;
            if (!line.size()) continue;
            row[kBullets] += chars[line.begin] == 0x2022 || chars[line.begin] == '-';
            const bool dots = line.size() > 2 && spells(line.end - 3, "...");
            row[kCutLines] += dots || chars[line.end - 1] == 0x2026;
        }
    }

    // Whether a third of a line or more is Chinese: it is short sooner, has no blanks, and ends with its own signs.
    bool chinese(Span part) const {
        int64_t han = 0;
        for (int64_t i = part.begin; i < part.end; i++) han += (classes[i] & kCjk) != 0;
        return han && 3 * han >= part.size();
    }

    void again(Span part, int64_t& number, int64_t& length) {
        if (seen.before(hash(part))) number++, length += part.size();
    }

    void count_parts(int64_t* row) {
        seen.begin(row[kNewlines] + 1);  // rows: what stands between runs of line feeds
        for (int64_t i = 0, begin = 0; i <= size; i++) {
            if (i < size && chars[i] != '\n') continue;
            row[kRows]++;
            again({begin, i}, row[kRowsAgain], row[kRowCharsAgain]);
            while (i + 1 < size && chars[i] == '\n' && chars[i + 1] == '\n') i++;
            begin = i + 1;
        }
        seen.begin(row[kNewlines] + 1);  // paragraphs: between two line feeds or more
        const Span whole = stripped({0, size});
        for (int64_t i = whole.begin, begin = i; i <= whole.end; i++) {
            if (i < whole.end && (chars[i] != '\n' || i + 1 == whole.end || chars[i + 1] != '\n')) continue;
            row[kParagraphs]++;
            again({begin, i}, row[kParagraphsAgain], row[kParagraphCharsAgain]);
            while (i < whole.end && chars[i] == '\n') i++;
            begin = i;
        }
        seen.begin(row[kNewlines] + 1);  // lines with something on them
        int64_t number = 0;
        for (int64_t i = 0, begin = 0; i <= size; i++) {
            if (i < size && chars[i] != '\n') continue;
            if (stripped({begin, i}).size()) {
                row[kText]++;
                row[kEnded] += is(i - 1, kStop);
                row[kShort] += i - begin <= (chinese({begin, i}) ? kShortChinese : kShortLine);
                again({begin, i}, number, row[kTextCharsAgain]);
            }
            begin = i + 1;
        }
    }

    // [12], [], [edit], [citation needed] at i of the line: its length, or 0.
    int64_t citation(Span part, int64_t i) const {
        int64_t j = i + 1;
        while (j < part.end && chars[j] >= '0' && chars[j] <= '9') j++;
        if (j < part.end && chars[j] == ']') return j + 1 - i;
        for (const char* each : {"[edit]", "[citation needed]"})
            if (int64_t(std::strlen(each)) <= part.end - i && spells(i, each)) return int64_t(std::strlen(each));
        return 0;
    }

    // Which of kPhrases stand in the line, one bit each; capitals count as small letters.
    uint32_t phrases() const {
        uint32_t found = 0;
        const size_t size = line.size();
        for (size_t i = 0; i < size; i++) {
            const uint32_t first = line[i] | 32;
            if (first != 'u' && first != 'c' && first != 'p' && first != 't' && first != 'j' && first != 'l') continue;
            for (int k = 0; k < 8; k++) {
                size_t j = 0;
                while (kPhrases[k][j] && i + j < size && lower(line[i + j]) == uint32_t(kPhrases[k][j])) j++;
                found |= uint32_t(!kPhrases[k][j]) << k;
            }
        }
        return found;
    }
    static uint32_t lower(uint32_t c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

    bool line_ends(bool han) const {
        if (line.empty()) return false;
        const size_t n = line.size();
        const uint32_t c = line[n - 1];
        if (c == '.' && n > 2 && line[n - 2] == '.' && line[n - 3] == '.') return false;
        return c == '.' || c == '?' || c == '!' || c == '"' || c == '\'' || (han && (line_classes[n - 1] & (kStop | kQuote)));
    }

    int64_t line_sentences() {
        line_words.clear();
        words_of({line.data(), line_classes.data(), int64_t(line.size())}, {0, int64_t(line.size())}, line_words);
        int64_t count = !line_words.empty();
        bool ended = false;
        for (const Span word : line_words) {
            uint16_t all = 0xFFFF;
            for (int64_t i = word.begin; i < word.end; i++) all &= line_classes[i];
            const bool stop = word.size() == 1 && (all & kStop);
            if (ended && !stop && !(all & kMark)) count++, ended = false;
            ended |= stop;
        }
        return count;
    }

    // What the rules of C4 make of a line: the count of its reason, kC4Kept if it stays.
    danlu_count judge(Span part, bool ended_lines) {
        int64_t count = 0, longest = 0;
        line.clear(), line_classes.clear();
        for (int64_t i = part.begin, begin = i; i <= part.end; i++) {
            if (i < part.end && !is(i, kBlank)) continue;
            count += i > begin;
            longest = i - begin > longest ? i - begin : longest;
            begin = i + 1;
        }
        if (longest > kLongestWord) return kC4LongWord;
        bool curly = false;
        for (int64_t i = part.begin; i < part.end;) {
            const int64_t left_out = chars[i] == '[' ? citation(part, i) : 0;
            if (!left_out) line.push_back(chars[i]), line_classes.push_back(classes[i]), curly |= chars[i] == '{';
            i += left_out ? left_out : 1;
        }
        const bool han = chinese(part);
        if (ended_lines && !line_ends(han)) return kC4Unended;
        if (count < kLeastWords && !(han && int64_t(line.size()) >= kLeastHan)) return kC4Few;
        const uint32_t found = phrases();
        if (found & 1) return kC4Lorem;
        if (found & 2) return kC4Script;
        if (curly) return kC4Curly;
        if (found) return kC4Policy;
        return kC4Kept;
    }

    // Write what C4 leaves from `out` on, without blanks at its ends; returns where it ends.
    uint8_t* clean(int64_t* row, bool ended_lines, uint8_t* const begin) {
        uint8_t *out = begin, *solid = begin;
        for (int64_t i = 0, next = 0; i < size; i = next) {
            const int64_t end = line_end(i, next);
            const danlu_count reason = judge(stripped({i, end}), ended_lines);
            row[reason]++;
            if (reason == kC4Lorem || reason == kC4Curly) return begin;
            if (reason != kC4Kept) continue;
            row[kC4Sentences] += line_sentences();
            if (out > begin) *out++ = '\n';
            for (size_t j = 0; j < line.size(); j++) {
                const bool blank = line_classes[j] & kBlank;
                if (blank && out == begin) continue;
                out = encode(line[j], out);
                if (!blank) solid = out;
            }
        }
        return solid;
    }
};

}  // namespace
}  // namespace danlu_rules

DANLU_API int danlu_measure_ref(const danlu_documents* in, int64_t* counts, uint8_t* kept, int64_t* kept_ends) try {
    int64_t last = 0;
    for (int64_t t = 0; t < in->texts; t++) {
        if (in->ends[t] < last || in->ends[t] - last > INT32_MAX) return DANLU_BAD_SIZE;
        last = in->ends[t];
    }
    if (last != in->bytes_count) return DANLU_BAD_SIZE;
    danlu_rules::Measure measure;
    measure.table = in->classes;
    uint8_t* out = kept;
    for (int64_t t = 0, begin = 0; t < in->texts; begin = in->ends[t++]) {
        int64_t* row = counts + t * kCounts;
        measure.read(in->bytes + begin, in->ends[t] - begin);
        measure.count_chars(row);
        measure.count_words(row);
        measure.count_lines(row);
        measure.count_parts(row);
        out = measure.clean(row, in->ended_lines, out);
        kept_ends[t] = out - kept;
    }
    return DANLU_OK;
} catch (const std::bad_alloc&) {
    return DANLU_NO_MEMORY;
}
