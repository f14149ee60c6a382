// The counts of the quality rules, in plain loops over the characters of each text.
#include <new>

#include "rules/c4.h"
#include "rules/page.h"

namespace danlu_rules {
namespace {

constexpr int64_t kShortLine = 30, kShortChinese = 15;

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
    const Irregular irregular;
    Page page{};
    C4 c4{page, irregular};
    std::vector<uint64_t> hashes{};
    Seen seen{};
    Repeats repeats{};

    void count_words(int64_t* row) {
        page.words.clear();
        words_of({page.chars.data(), page.classes.data(), page.size}, {0, page.size}, irregular, page.words);
        grow(hashes, int64_t(page.words.size()));
        uint32_t english = 0, chinese = 0;
        int64_t alpha = 0, spoken = 0, spoken_chars = 0;
        for (size_t w = 0; w < page.words.size(); w++) {
            const Span word = page.words[w];
            if (word.size() == 1) {  // most words of Chinese, and all signs
                const uint16_t own = page.classes[word.begin];
                alpha += (own & kAlpha) != 0;
                if (!(own & kSymbol)) spoken++, spoken_chars++;
                hashes[w] = mixed(page.chars[word.begin] + 1) + 1;
                chinese |= chinese_stop(page.chars[word.begin]);
                continue;
            }
            uint16_t any = 0, all = 0xFFFF;
            for (int64_t i = word.begin; i < word.end; i++) any |= page.classes[i], all &= page.classes[i];
            alpha += (any & kAlpha) != 0;
            if (!(all & kSymbol)) spoken++, spoken_chars += word.size();
            hashes[w] = page.hash(word);
            english |= english_stop(page.chars.data() + word.begin, word.size());
        }
        row[kWords] = int64_t(page.words.size());
        row[kAlphaWords] = alpha, row[kSpoken] = spoken, row[kSpokenChars] = spoken_chars;
        row[kStopWords] = __builtin_popcount(english), row[kChineseStops] = __builtin_popcount(chinese);
        repeats.count(page.words, hashes.data(), row);
    }

    void count_chars(int64_t* row) {
        int32_t hashes_seen = 0, ellipses = 0, own = 0;
        for (int64_t i = 0; i < page.size; i++) hashes_seen += page.chars[i] == '#', ellipses += page.chars[i] == 0x2026;
        for (int64_t i = 0; i < page.size; i++) own += (page.classes[i] & kCjk) != 0;
        for (int64_t i = 0; i + 2 < page.size; i++)
            if (page.chars[i + 2] != '.') i += 2;  // none of the next three begins three dots
            else if (page.spells(i, "...")) ellipses++, i += 2;
        page.han = own;
        row[kChars] = page.size, row[kNewlines] = int64_t(page.newlines.size());
        row[kHashes] = hashes_seen, row[kEllipses] = ellipses, row[kHan] = page.han;
    }

    void count_lines(int64_t* row) {
        row[kLines] = int64_t(page.lines.size());
        for (const Span each : page.lines) {
            const Span own = page.stripped(each);
            if (!own.size()) continue;
            row[kBullets] += page.chars[own.begin] == 0x2022 || page.chars[own.begin] == '-';
            const bool dots = own.size() > 2 && page.spells(own.end - 3, "...");
            row[kCutLines] += dots || page.chars[own.end - 1] == 0x2026;
        }
    }

    void again(Span part, int64_t& number, int64_t& length) {
        if (seen.before(page.hash(part))) number++, length += part.size();
    }

    // The last of the line feeds that stand in a row from the k-th on.
    size_t row_of_feeds(size_t k) const {
        while (k + 1 < page.newlines.size() && page.newlines[k + 1] == page.newlines[k] + 1) k++;
        return k;
    }

    void count_parts(int64_t* row) {
        const int64_t feeds = int64_t(page.newlines.size());
        seen.begin(feeds + 1);  // rows: what stands between runs of line feeds
        const auto count_row = [&](int64_t begin, int64_t end) {
            row[kRows]++;
            again({begin, end}, row[kRowsAgain], row[kRowCharsAgain]);
        };
        int64_t begin = 0;
        for (size_t k = 0; k < page.newlines.size(); k++) {
            count_row(begin, page.newlines[k]);
            begin = page.newlines[k = row_of_feeds(k)] + 1;
        }
        count_row(begin, page.size);
        seen.begin(feeds + 1);  // paragraphs: between two line feeds or more
        const auto count_paragraph = [&](int64_t begin, int64_t end) {
            row[kParagraphs]++;
            again({begin, end}, row[kParagraphsAgain], row[kParagraphCharsAgain]);
        };
        const Span whole = page.stripped({0, page.size});
        begin = whole.begin;
        for (size_t k = 0; k < page.newlines.size() && page.newlines[k] < whole.end; k++) {
            const size_t last = row_of_feeds(k);
            if (last > k && page.newlines[k] >= whole.begin) count_paragraph(begin, page.newlines[k]), begin = page.newlines[last] + 1;
            k = last;
        }
        count_paragraph(begin, whole.end);
        seen.begin(feeds + 1);  // lines with something on them
        int64_t number = 0;
        const auto count_line = [&](Span own) {
            if (!page.stripped(own).size()) return;
            row[kText]++;
            row[kEnded] += page.is(own.end - 1, kStop);
            row[kShort] += own.size() <= kShortLine && own.size() <= (page.chinese(own) ? kShortChinese : kShortLine);
            again(own, number, row[kTextCharsAgain]);
        };
        begin = 0;
        for (const int64_t end : page.newlines) count_line({begin, end}), begin = end + 1;
        count_line({begin, page.size});
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
    danlu_rules::Measure measure{danlu_rules::Irregular(in->irregular)};
    measure.page.table = in->classes;
    uint8_t* out = kept;
    for (int64_t t = 0, begin = 0; t < in->texts; begin = in->ends[t++]) {
        int64_t* row = counts + t * kCounts;
        measure.page.read(in->bytes + begin, in->ends[t] - begin);
        measure.count_chars(row);
        measure.count_words(row);
        measure.count_lines(row);
        measure.count_parts(row);
        if (in->c4 != kC4None) out = measure.c4.clean(row, in->ended_lines, in->c4 == kC4Text, out);
        kept_ends[t] = out - kept;
    }
    return DANLU_OK;
} catch (const std::bad_alloc&) {
    return DANLU_NO_MEMORY;
}
