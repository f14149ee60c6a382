// One pass over documents: the counts that the published quality rules compare with their limits.
//
// src/danlu/data/measure.py defines every count in plain Python and gives the class of every character; this must equal it
// on any text.
#pragma once

#include <cstdint>
#include <vector>

#include "core/status.h"

// Classes of a character, as measure.py writes them into `classes`.
enum danlu_class : uint16_t {
    kAlpha = 1, kLower = 2, kUpper = 4, kDigit = 8, kBlank = 16, kSymbol = 32, kMark = 64, kPeel = 128,
    kQuote = 256, kCjk = 512, kStop = 1024, kIcon = 2048, kMoney = 4096, kLineEnd = 8192, kFront = 16384, kLetter = 32768,
};
constexpr int64_t kClasses = 0x20000;  // characters with a class of their own
constexpr int64_t kBeyond = 0x40000;   // those up to here are Chinese characters, what follows has no class

// Columns of a document's row; measure.FIELDS names them in the same order.
enum danlu_count {
    kChars, kWords, kSpoken, kSpokenChars, kHashes, kEllipses, kLines, kBullets, kCutLines, kAlphaWords, kStopWords,
    kChineseStops, kHan, kParagraphs, kParagraphsAgain, kParagraphCharsAgain, kRows, kRowsAgain, kRowCharsAgain,
    kTop2, kTop3, kTop4, kDup5, kDup6, kDup7, kDup8, kDup9, kDup10,
    kText, kEnded, kShort, kTextCharsAgain, kNewlines,
    kC4Sentences, kC4Lorem, kC4Curly, kC4Kept, kC4LongWord, kC4Unended, kC4Few, kC4Script, kC4Policy, kCounts,
};

// Words that are cut by rote, one after the other; irregular.py has them. No more than 15 characters each.
struct danlu_irregular {
    const uint32_t* chars;
    const int32_t* ends;
    const uint16_t* cuts;   // bit i: at its i-th character begins a word
    const uint16_t* parts;  // the same, as the rules for signs alone would cut it
    int32_t words;
};

struct danlu_documents {
    const uint8_t* bytes;  // all texts, UTF-8, one after the other
    int64_t bytes_count;
    const int64_t* ends;  // where each text ends
    int64_t texts;
    const uint16_t* classes;  // kClasses
    const danlu_irregular* irregular;
    int32_t ended_lines;      // C4 keeps only lines that end a sentence
    int32_t c4;               // danlu_c4: what of the rules of C4 is wanted
};

enum danlu_c4 : int32_t { kC4None, kC4Counts, kC4Text };  // without, its counts stay as they are

// counts (texts, kCounts), zeros; kept, with kC4Text room for 3 * bytes_count: the texts that the rules of C4 leave, UTF-8; kept_ends (texts)
DANLU_API int danlu_measure_ref(const danlu_documents* in, int64_t* counts, uint8_t* kept, int64_t* kept_ends);

namespace danlu_rules {

struct Span {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
};

// A text as characters with their classes.
struct Text {
    const uint32_t* chars;
    const uint16_t* classes;
    int64_t size;
};

// The words of `part`, appended to `out`; the rules stand in words.py.
class Irregular;
void words_of(const Text& text, Span part, const Irregular& irregular, std::vector<Span>& out);

// Fill kTop2 .. kDup10 of a row. `hashes` has one value for each word; equal words have equal ones.
struct Repeats {
    struct Run {
        uint64_t key;
        int32_t count, first;  // count 0: no run is here; first: where it stood first, -1 once that was met again
    };
    std::vector<Run> runs;
    std::vector<uint8_t> times;  // that a hash of a run was met, up to two
    std::vector<uint64_t> grams;
    std::vector<int32_t> places, own;
    std::vector<int64_t> sizes;
    void leave_repeated();
    void count(const std::vector<Span>& words, const uint64_t* hashes, int64_t* row);
};

}  // namespace danlu_rules
