// The rules of C4: which lines of a page stay, and why the others go.
#pragma once

#include <cstring>

#include "rules/irregular.h"
#include "rules/page.h"

namespace danlu_rules {

inline const char* const kPhrases[8] = {"lorem ipsum", "javascript", "terms of use", "privacy policy", "cookie policy",
                                        "uses cookies", "use of cookies", "use cookies"};
constexpr int64_t kLongestWord = 1000, kLeastWords = 3, kLeastHan = 6;

// Whether a phrase of kPhrases may begin with these two characters.
inline bool leads(uint32_t c, uint32_t next) {
    constexpr char kSecond[] = "--o------a-o---r---es-----";  // by the first letter
    const uint32_t letter = (c | 32) - 'a';
    return letter < 26 && (next | 32) == uint32_t(kSecond[letter]);
}

struct C4 {
    const Page& page;
    const Irregular& irregular;
    Text line{};  // what is looked at, without its citations
    std::vector<uint32_t> copied{};
    std::vector<uint16_t> copied_classes{};
    std::vector<Span> line_words{};

    // [12], [], [edit], [citation needed] at i of the line: its length, or 0.
    int64_t citation(Span part, int64_t i) const {
        int64_t j = i + 1;
        while (j < part.end && decimal(page.chars[j])) j++;
        if (j < part.end && page.chars[j] == ']') return j + 1 - i;
        for (const char* each : {"[edit]", "[citation needed]"})
            if (int64_t(std::strlen(each)) <= part.end - i && page.spells(i, each)) return int64_t(std::strlen(each));
        return 0;
    }

    // Which of kPhrases stand in the line, one bit each; capitals count as small letters.
    uint32_t phrases() const {
        uint32_t found = 0;
        for (int64_t i = 0; i + 1 < line.size; i++) {
            if (!leads(line.chars[i], line.chars[i + 1])) continue;
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

    // Sentences in words of a text. More than one blank between two words, or another one than a space, begins one as a word does.
    static int64_t sentences(const Span* from, const Span* to, const uint32_t* chars, const uint16_t* classes) {
        int64_t count = from < to;
        bool ended = false;
        for (const Span* word = from; word < to; word++) {
            const int64_t before = word > from ? word[-1].end : word->begin;
            const bool blanks = word->begin - before > 1 || (word->begin > before && chars[before] != ' ');
            count += ended && blanks, ended = ended && !blanks;
            const bool stop = word->size() == 1 && (classes[word->begin] & kStop);
            if (ended && !stop) {
                uint16_t all = kMark;
                for (int64_t i = word->begin; i < word->end; i++) all &= classes[i];
                if (!all) count++, ended = false;
            }
            ended |= stop;
        }
        return count;
    }

    // No word reaches over a line end, so the words of a whole line are among the text's, from `word` on.
    int64_t line_sentences(Span part, size_t& word) {
        if (line.chars == page.chars.data() + part.begin) {
            while (word < page.words.size() && page.words[word].begin < part.begin) word++;
            const size_t first = word;
            while (word < page.words.size() && page.words[word].end <= part.end) word++;
            return sentences(page.words.data() + first, page.words.data() + word, page.chars.data(), page.classes.data());
        }
        line_words.clear();
        words_of(line, {0, line.size}, irregular, line_words);
        return sentences(line_words.data(), line_words.data() + line_words.size(), line.chars, line.classes);
    }

    // Let `line` be the part, without its citations; says whether there is a { in it.
    bool take(Span part) {
        line = {page.chars.data() + part.begin, page.classes.data() + part.begin, part.size()};
        bool cited = false, curly = false;
        for (int64_t i = 0; i < line.size; i++) cited |= line.chars[i] == '[', curly |= line.chars[i] == '{';
        if (!cited) return curly;
        copied.clear(), copied_classes.clear(), cited = false;
        for (int64_t i = part.begin; i < part.end;) {
            const int64_t left_out = page.chars[i] == '[' ? citation(part, i) : 0;
            if (!left_out) copied.push_back(page.chars[i]), copied_classes.push_back(page.classes[i]);
            cited |= left_out > 0;
            i += left_out ? left_out : 1;
        }
        if (cited) line = {copied.data(), copied_classes.data(), int64_t(copied.size())};
        return curly;
    }

    bool has_long_word(Span part) const {
        int64_t longest = 0;
        for (int64_t i = part.begin, begin = i; i <= part.end && part.size() > kLongestWord; i++) {
            if (i < part.end && !page.is(i, kBlank)) continue;
            longest = i - begin > longest ? i - begin : longest;
            begin = i + 1;
        }
        return longest > kLongestWord;
    }

    bool has_few_words(Span part) const {
        int64_t count = 0;
        for (int64_t i = part.begin; i < part.end && count < kLeastWords; i++)
            count += !page.is(i, kBlank) && (i + 1 == part.end || page.is(i + 1, kBlank));
        return count < kLeastWords;
    }

    // What the rules of C4 make of a line: the count of its reason, kC4Kept if it stays.
    danlu_count judge(Span part, bool ended_lines) {
        if (has_long_word(part)) return kC4LongWord;
        const bool curly = take(part), is_chinese = page.chinese(part);
        if (ended_lines && !line_ends(is_chinese)) return kC4Unended;
        if (has_few_words(part) && !(is_chinese && line.size >= kLeastHan)) return kC4Few;
        const uint32_t found = phrases();
        if (found & 1) return kC4Lorem;
        if (found & 2) return kC4Script;
        if (curly) return kC4Curly;
        if (found) return kC4Policy;
        return kC4Kept;
    }

    // Count what C4 makes of the lines. With `writes`, write what it leaves from `begin` on, without blanks at its ends; returns
    // where that ends.
    uint8_t* clean(int64_t* row, bool ended_lines, bool writes, uint8_t* const begin) {
        uint8_t *out = begin, *solid = begin;
        size_t word = 0;
        for (const Span each : page.lines) {
            const Span part = page.stripped(each);
            const danlu_count reason = judge(part, ended_lines);
            row[reason]++;
            if (reason == kC4Lorem || reason == kC4Curly) return begin;
            if (reason != kC4Kept) continue;
            row[kC4Sentences] += line_sentences(part, word);
            if (!writes) continue;
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

}  // namespace danlu_rules
