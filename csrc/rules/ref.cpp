// The counts of the quality rules, in plain loops over the characters of each text.
#include <cstring>
#include <new>

#include "rules/chars.h"
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

// Whether a phrase of kPhrases may begin with this character.
inline bool leads(uint32_t c) {
    constexpr uint64_t kLeads = 1 << ('c' - 'a') | 1 << ('j' - 'a') | 1 << ('l' - 'a') | 1 << ('p' - 'a') | 1 << ('t' - 'a') | 1 << ('u' - 'a');
    const uint32_t letter = (c | 32) - 'a';
    return letter < 26 && kLeads >> letter & 1;
}

template <class T>
void grow(std::vector<T>& room, int64_t size) {
    if (int64_t(room.size()) < size) room.resize(size);  // what is there is written over: no need to clear it
}

struct Measure {
    std::vector<uint32_t> chars, copied;
    std::vector<uint16_t> classes, copied_classes;
    std::vector<uint64_t> sums, powers, hashes;
    std::vector<Span> words, line_words, lines;  // lines: by any Unicode line end
    std::vector<int64_t> breaks, newlines;       // where line ends of any kind stand, and line feeds
    Text line;                                   // the one that C4's rules look at, without its citations
    Seen seen;
    Repeats repeats;
    const uint16_t* table = nullptr;
    int64_t size = 0, han = 0;

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
        grow(chars, count + 1), grow(classes, count + 1), grow(sums, count + 1);
        while (int64_t(powers.size()) < count + 1) powers.push_back(powers.empty() ? 1 : powers.back() * kBase);
        breaks.clear(), newlines.clear(), lines.clear();
        size = 0;
        uint64_t sum = sums[0] = 0;
        for (int64_t i = 0; i < count; size++) {
            uint32_t c = bytes[i];
            i += c < 0x80 ? 1 : decode(bytes + i, count - i, c);
            const uint16_t own = class_of(c);
            chars[size] = c, classes[size] = own;
            sums[size + 1] = sum = sum * kBase + c + 1;
            if (own & kLineEnd) breaks.push_back(size);
        }
        int64_t begin = 0;
        for (const int64_t at : breaks) {
            if (chars[at] == '\n') newlines.push_back(at);
            if (at < begin) continue;  // the second half of "\r\n"
            lines.push_back({begin, at});
            begin = at + 1 + (at + 1 < size && chars[at] == '\r' && chars[at + 1] == '\n');
        }
        if (begin < size) lines.push_back({begin, size});
    }

    void count_words(int64_t* row) {
        words.clear();
        words_of({chars.data(), classes.data(), size}, {0, size}, words);
        grow(hashes, int64_t(words.size()));
        uint32_t english = 0, chinese = 0;
        int64_t alpha = 0, spoken = 0, spoken_chars = 0;
        for (size_t w = 0; w < words.size(); w++) {
            const Span word = words[w];
            uint16_t any = 0, all = 0xFFFF;
            for (int64_t i = word.begin; i < word.end; i++) any |= classes[i], all &= classes[i];
            alpha += (any & kAlpha) != 0;
            if (!(all & kSymbol)) spoken++, spoken_chars += word.size();
            hashes[w] = hash(word);
            if (word.size() == 1) chinese |= chinese_stop(chars[word.begin]);
            else english |= english_stop(chars.data() + word.begin, word.size());
        }
        row[kWords] = int64_t(words.size());
        row[kAlphaWords] = alpha, row[kSpoken] = spoken, row[kSpokenChars] = spoken_chars;
        row[kStopWords] = __builtin_popcount(english), row[kChineseStops] = __builtin_popcount(chinese);
        repeats.count(words, hashes.data(), row);
    }

    void count_chars(int64_t* row) {
        int32_t hashes_seen = 0, ellipses = 0, own = 0;
        for (int64_t i = 0; i < size; i++) hashes_seen += chars[i] == '#', ellipses += chars[i] == 0x2026;
        for (int64_t i = 0; i < size; i++) own += (classes[i] & kCjk) != 0;
        for (int64_t i = 0; i + 2 < size; i++)
            if (chars[i + 2] != '.') i += 2;  // none of the next three begins three dots
            else if (spells(i, "...")) ellipses++, i += 2;
        han = own;
        row[kChars] = size, row[kNewlines] = int64_t(newlines.size());
        row[kHashes] = hashes_seen, row[kEllipses] = ellipses, row[kHan] = han;
    }

    Span stripped(Span part) const {
        while (part.begin < part.end && is(part.begin, kBlank)) part.begin++;
        while (part.begin < part.end && is(part.end - 1, kBlank)) part.end--;
        return part;
    }

    void count_lines(int64_t* row) {
        row[kLines] = int64_t(lines.size());
        for (const Span each : lines) {
            const Span own = stripped(each);
            if (!own.size()) continue;
            row[kBullets] += chars[own.begin] == 0x2022 || chars[own.begin] == '-';
            const bool dots = own.size() > 2 && spells(own.end - 3, "...");
            row[kCutLines] += dots || chars[own.end - 1] == 0x2026;
        }
    }

    // Whether a third of a line or more is Chinese: it is short sooner, has no blanks, and ends with its own signs.
    bool chinese(Span part) const {
        if (!han) return false;
        int64_t own = 0;
        for (int64_t i = part.begin; i < part.end; i++) own += (classes[i] & kCjk) != 0;
        return own && 3 * own >= part.size();
    }

    void again(Span part, int64_t& number, int64_t& length) {
        if (seen.before(hash(part))) number++, length += part.size();
    }

    // The last of the line feeds that stand in a row from the k-th on.
    size_t row_of_feeds(size_t k) const {
        while (k + 1 < newlines.size() && newlines[k + 1] == newlines[k] + 1) k++;
        return k;
    }

    void count_parts(int64_t* row) {
        const int64_t feeds = int64_t(newlines.size());
        seen.begin(feeds + 1);  // rows: what stands between runs of line feeds
        const auto count_row = [&](int64_t begin, int64_t end) {
            row[kRows]++;
            again({begin, end}, row[kRowsAgain], row[kRowCharsAgain]);
        };
        int64_t begin = 0;
        for (size_t k = 0; k < newlines.size(); k++) {
            count_row(begin, newlines[k]);
            begin = newlines[k = row_of_feeds(k)] + 1;
        }
        count_row(begin, size);
        seen.begin(feeds + 1);  // paragraphs: between two line feeds or more
        const auto count_paragraph = [&](int64_t begin, int64_t end) {
            row[kParagraphs]++;
            again({begin, end}, row[kParagraphsAgain], row[kParagraphCharsAgain]);
        };
        const Span whole = stripped({0, size});
        begin = whole.begin;
        for (size_t k = 0; k < newlines.size() && newlines[k] < whole.end; k++) {
            const size_t last = row_of_feeds(k);
            if (last > k && newlines[k] >= whole.begin) count_paragraph(begin, newlines[k]), begin = newlines[last] + 1;
            k = last;
        }
        count_paragraph(begin, whole.end);
        seen.begin(feeds + 1);  // lines with something on them
        int64_t number = 0;
        const auto count_line = [&](Span own) {
            if (!stripped(own).size()) return;
            row[kText]++;
            row[kEnded] += is(own.end - 1, kStop);
            row[kShort] += own.size() <= kShortLine && own.size() <= (chinese(own) ? kShortChinese : kShortLine);
            again(own, number, row[kTextCharsAgain]);
        };
        begin = 0;
        for (const int64_t end : newlines) count_line({begin, end}), begin = end + 1;
        count_line({begin, size});
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
        for (int64_t i = 0; i < line.size; i++) {
            if (!leads(line.chars[i])) continue;
            for (int k = 0; k < 8; k++) {
                int64_t j = 0;
                while (kPhrases[k][j] && i + j < line.size && lower(line.chars[i + j]) == uint32_t(kPhrases[k][j])) j++;
                found |= uint32_t(!kPhrases[k][j]) << k;
            }
        }
        return found;
    }

    bool line_ends(bool han) const {
        if (!line.size) return false;
        const int64_t n = line.size;
        const uint32_t c = line.chars[n - 1];
        if (c == '.' && n > 2 && line.chars[n - 2] == '.' && line.chars[n - 3] == '.') return false;
        return c == '.' || c == '?' || c == '!' || c == '"' || c == '\'' || (han && (line.classes[n - 1] & (kStop | kQuote)));
    }

    // Sentences in words of a text with these classes.
    static int64_t sentences(const Span* from, const Span* to, const uint16_t* classes) {
        int64_t count = from < to;
        bool ended = false;
        for (; from < to; from++) {
            const bool stop = from->size() == 1 && (classes[from->begin] & kStop);
            if (ended && !stop) {
                uint16_t all = kMark;
                for (int64_t i = from->begin; i < from->end; i++) all &= classes[i];
                if (!all) count++, ended = false;
            }
            ended |= stop;
        }
        return count;
    }

    // No word reaches over a line end, so the words of a whole line are among the text's, from `word` on.
    int64_t line_sentences(Span part, size_t& word) {
        if (line.chars == chars.data() + part.begin) {
            while (word < words.size() && words[word].begin < part.begin) word++;
            const size_t first = word;
            while (word < words.size() && words[word].end <= part.end) word++;
            return sentences(words.data() + first, words.data() + word, classes.data());
        }
        line_words.clear();
        words_of(line, {0, line.size}, line_words);
        return sentences(line_words.data(), line_words.data() + line_words.size(), line.classes);
    }

    // Let `line` be the part, without its citations; says whether there is a { in it.
    bool take(Span part) {
        line = {chars.data() + part.begin, classes.data() + part.begin, part.size()};
        bool cited = false, curly = false;
        for (int64_t i = 0; i < line.size; i++) cited |= line.chars[i] == '[', curly |= line.chars[i] == '{';
        if (!cited) return curly;
        copied.clear(), copied_classes.clear(), cited = false;
        for (int64_t i = part.begin; i < part.end;) {
            const int64_t left_out = chars[i] == '[' ? citation(part, i) : 0;
            if (!left_out) copied.push_back(chars[i]), copied_classes.push_back(classes[i]);
            cited |= left_out > 0;
            i += left_out ? left_out : 1;
        }
        if (cited) line = {copied.data(), copied_classes.data(), int64_t(copied.size())};
        return curly;
    }

    bool has_long_word(Span part) const {
        int64_t longest = 0;
        for (int64_t i = part.begin, begin = i; i <= part.end && part.size() > kLongestWord; i++) {
            if (i < part.end && !is(i, kBlank)) continue;
            longest = i - begin > longest ? i - begin : longest;
            begin = i + 1;
        }
        return longest > kLongestWord;
    }

    bool has_few_words(Span part) const {
        int64_t count = 0;
        for (int64_t i = part.begin; i < part.end && count < kLeastWords; i++)
            count += !is(i, kBlank) && (i + 1 == part.end || is(i + 1, kBlank));
        return count < kLeastWords;
    }

    // What the rules of C4 make of a line: the count of its reason, kC4Kept if it stays.
    danlu_count judge(Span part, bool ended_lines) {
        if (has_long_word(part)) return kC4LongWord;
        const bool curly = take(part), is_chinese = chinese(part);
        if (ended_lines && !line_ends(is_chinese)) return kC4Unended;
        if (has_few_words(part) && !(is_chinese && line.size >= kLeastHan)) return kC4Few;
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
        size_t word = 0;
        for (const Span each : lines) {
            const Span part = stripped(each);
            const danlu_count reason = judge(part, ended_lines);
            row[reason]++;
            if (reason == kC4Lorem || reason == kC4Curly) return begin;
            if (reason != kC4Kept) continue;
            row[kC4Sentences] += line_sentences(part, word);
            if (out > begin) *out++ = '\n';
            for (int64_t j = 0; j < line.size; j++) {
                const bool blank = line.classes[j] & kBlank;
                if (blank && out == begin) continue;
                out = encode(line.chars[j], out);
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
