// Words as English tokenizers cut them: blanks first, then signs peeled off both ends, then signs between letters.
//
// src/danlu/data/words.py has the same rules in Python. A Chinese or Japanese character is a word of its own.
#include <algorithm>
#include <cstring>

#include "rules/address.h"
#include "rules/irregular.h"

namespace danlu_rules {
namespace {

constexpr uint32_t kDots = 0x2026;  // ...

struct Cutter {
    const uint32_t* c;
    const uint16_t* f;
    const Irregular& irregular;
    std::vector<Span>& out;
    std::vector<Span> behind{};
    uint16_t any = 0;  // the classes that some character of the chunk has

    void word(int64_t a, int64_t b) { if (a < b) out.push_back({a, b}); }
    bool is(int64_t i, uint16_t classes) const { return f[i] & classes; }
    int32_t known(int64_t a, int64_t b) const { return irregular.find(c + a, b - a); }

    // How many dots stand in a row from i on.
    int64_t dots(int64_t i, int64_t b) const {
        int64_t j = i;
        while (j < b && c[j] == '.') j++;
        return j - i;
    }

    // "US$", "C$" or "A$": its length.
    int64_t dollars(int64_t a, int64_t b) const {
        if (b - a >= 2 && c[a + 1] == '$' && (c[a] == 'C' || c[a] == 'A')) return 2;
        return b - a >= 3 && c[a] == 'U' && c[a + 1] == 'S' && c[a + 2] == '$' ? 3 : 0;
    }

    // Length of a sign that stands alone at the front of [a, b); 0 if there is none.
    int64_t front(int64_t a, int64_t b) const {
        if (is(a, kPeel | kIcon | kMoney | kFront)) return 1;
        if (c[a] == '.') {
            const int64_t size = dots(a, b);
            return size > 1 ? size : 0;
        }
        if (c[a] == '+') return a + 1 == b || !is(a + 1, kDigit);
        return dollars(a, b);
    }

    // Length of a unit of measure that ends [a, b) right after a digit.
    int64_t unit(int64_t a, int64_t b) const {
        static const char32_t* const kUnits[] = {
            U"km", U"m", U"dm", U"cm", U"mm", U"nm", U"ha", U"µm", U"yd", U"in", U"ft", U"kg", U"g", U"mg", U"µg", U"t", U"lb",
            U"oz", U"m/s", U"km/h", U"kmh", U"mph", U"hPa", U"Pa", U"mbar", U"mb", U"MB", U"kb", U"KB", U"gb", U"GB", U"tb",
            U"TB", U"T", U"G", U"M", U"K", U"%", U"км", U"м", U"дм", U"см", U"мм", U"нм", U"кг", U"г", U"мг", U"м/с", U"км/ч",
            U"кПа", U"Па", U"мбар", U"Кб", U"КБ", U"кб", U"Мб", U"МБ", U"мб", U"Гб", U"ГБ", U"гб", U"Тб", U"ТБ", U"тбكم", U"كم",
            U"م", U"سم", U"مم", U"غرام", U"جرام", U"جم", U"كغ", U"ملغ", U"كوب", U"اكواب"};
        static const char32_t* const kSquared[] = {U"km", U"m", U"dm", U"cm", U"mm", U"км", U"м", U"дм", U"см", U"мм", U"كم", U"م", U"سم", U"مم"};
        int64_t i = b;
        while (i > a && b - i < 6 && !is(i - 1, kDigit)) i--;
        if (i == a || i == b || !is(i - 1, kDigit)) return 0;
        const auto any = [&](const auto& units, int64_t end) {
            return std::any_of(std::begin(units), std::end(units), [&](const char32_t* unit) {
                int64_t j = i;
                while (j < end && c[j] == *unit) j++, unit++;
                return j == end && !*unit;
            });
        };
        const bool power = c[b - 1] == 0xB2 || c[b - 1] == 0xB3;
        return (power ? any(kSquared, b - 1) : any(kUnits, b)) ? b - i : 0;
    }

    // Whether the dot behind [a, dot) is no part of the word.
    bool ends(int64_t a, int64_t dot) const {
        if (dot == a) return false;
        const uint32_t before = c[dot - 1];
        if (is(dot - 1, kDigit | kLower | kPeel | kQuote) || before == '%' || before == 0xB2 || before == '-' || before == '+' || before == '|')
            return true;
        if (dot - 2 < a) return false;
        const uint32_t small = before | 32;
        if (c[dot - 2] == 0xB0 && (small == 'f' || small == 'c' || small == 'k')) return true;
        return is(dot - 1, kUpper) && is(dot - 2, kUpper);
    }

    // Length of the longest sign, 's or unit that stands alone at the end of [a, b); 0 if there is none.
    int64_t back(int64_t a, int64_t b) const {
        if (a == b) return 0;
        const uint32_t last = c[b - 1], before = b - a > 1 ? c[b - 2] : 0;
        if (last == '.') {
            const bool more = before == '.';
            if (!more) return ends(a, b - 1);
            int64_t i = b;
            while (i > a && c[i - 1] == '.') i--;
            return b - i;
        }
        if (last == kDots && before == kDots) return 2;
        if ((last == 's' || last == 'S') && (before == '\'' || before == 0x2019)) return 2;
        if (is(b - 1, kPeel | kIcon) || last == 0x2014 || last == 0x2013) return 1;
        if (b - a < 2 || is(b - 1, kDigit)) return 0;
        if (is(b - 1, kMoney)) {
            if (b - a > 3 && last == '$' && before == 'S' && c[b - 3] == 'U' && is(b - 4, kDigit)) return 3;
            if (b - a > 2 && last == '$' && (before == 'C' || before == 'A') && is(b - 3, kDigit)) return 2;
            return is(b - 2, kDigit);
        }
        if (last == '+') return is(b - 2, kDigit);
        return any & kDigit ? unit(a, b) : 0;
    }

    // Length of a sign between two words at i, inside [a, b); 0 if there is none.
    int64_t between(int64_t i, int64_t a, int64_t b) const {
        const uint32_t sign = c[i];
        if (sign == '.') {
            const int64_t size = dots(i, b);
            if (size > 1) return size;
        }
        if (is(i, kIcon) || sign == kDots) return 1;
        if (i == a || i + 1 >= b) return 0;
        const bool letter = is(i - 1, kLetter), figure = is(i - 1, kDigit);
        if (figure && (sign == '+' || sign == '-' || sign == '*' || sign == '^') && (is(i + 1, kDigit) || c[i + 1] == '-')) return 1;
        if (sign == '.') return is(i - 1, kLower | kQuote) && is(i + 1, kUpper | kQuote);
        if (sign == ',') return letter && is(i + 1, kLetter);
        if (!letter && !figure) return 0;
        if (sign == '-' || sign == 0x2013 || sign == 0x2014 || sign == '~') {
            const int64_t most = sign == '-' ? 3 : sign == 0x2014 ? 2 : 1;
            int64_t j = i + 1;
            while (j < b && j - i < most && c[j] == sign) j++;
            return j < b && is(j, kLetter) ? j - i : 0;
        }
        return (sign == ':' || sign == '<' || sign == '>' || sign == '=' || sign == '/') && is(i + 1, kLetter);
    }

    void by_rote(int64_t a, int32_t known) {
        const int64_t b = a + irregular.size(known);
        for (int64_t i = a + 1, begin = a; i <= b; i++)
            if (i == b || irregular.cuts(known) >> (i - a) & 1) word(begin, i), begin = i;
    }

    // Words of what is left when nothing can be taken off its ends any more.
    void core(int64_t a, int64_t b) {
        const bool han = any & kCjk;
        if (!han && any & kStop && Address{c, f}.is(a, b)) return word(a, b);  // a dot is a stop
        int64_t begin = a;
        for (int64_t i = a; i < b;) {
            if (!han && is(i, kAlpha | kDigit) && !is(i, kIcon)) {
                i++;
                continue;
            }
            const int64_t sign = han && is(i, kCjk | kPeel) ? 1 : between(i, a, b);
            if (sign && (i > a || han)) {
                word(begin, i);
                word(i, i + sign);
                begin = i + sign;
            }
            i += sign ? sign : 1;
        }
        word(begin, b);
    }

    // What stands between two blanks; `all`: the classes that all of its characters have.
    void chunk(int64_t a, int64_t b, uint16_t all) {
        int32_t which = known(a, b);
        if (which >= 0) return by_rote(a, which);
        if (all & kAlpha && !(any & kCjk)) return word(a, b);
        behind.clear();
        while (a < b) {
            int64_t first = front(a, b), last = back(a + first, b);
            if (first && (which = known(a + first, b)) >= 0) last = 0;
            else if (last && (which = known(a, b - last)) >= 0) first = 0;
            else if (first && last) which = known(a + first, b - last);
            word(a, a + first);
            if (last) behind.push_back({b - last, b});
            a += first, b -= last;
            if (which >= 0 || !(first || last)) break;
        }
        if (which >= 0) by_rote(a, which);
        else core(a, b);
        for (size_t i = behind.size(); i--;) out.push_back(behind[i]);
    }
};

// Words `from` on of `out`: where irregular ones stand as rows of their parts ("foo:)"), they are cut as those are.
class Rejoin {
    struct Row {
        size_t first, after;
        int32_t word;
    };
    const uint32_t* c_;
    const Irregular& irregular_;
    std::vector<Span>& words_;
    size_t from_;
    std::vector<Row> rows_{};

    bool adjacent(size_t w) const {  // to the word behind it: one blank may stand between them
        const int64_t end = words_[w].end, next = words_[w + 1].begin;
        return next == end || (next == end + 1 && c_[end] == ' ');
    }

    void find() {
        for (size_t first = from_; first + 1 < words_.size(); first++) {
            if (!irregular_.may_begin(c_[words_[first].begin], c_[words_[first + 1].begin]) || !adjacent(first)) continue;
            uint64_t row = 1;
            for (size_t w = first; w < words_.size() && (w == first || adjacent(w - 1)); w++) {
                int32_t known;
                row = irregular_.with(row, c_ + words_[w].begin, words_[w].size(), known);
                if (!row) break;
                if (known >= 0) rows_.push_back({first, w + 1, known});
            }
        }
    }

   public:
    Rejoin(const uint32_t* c, const Irregular& irregular, std::vector<Span>& words, size_t from)
        : c_(c), irregular_(irregular), words_(words), from_(from) {}

    void run() {
        find();
        if (rows_.empty()) return;
        std::sort(rows_.begin(), rows_.end(), [](const Row& x, const Row& y) {
            const size_t a = x.after - x.first, b = y.after - y.first;
            return a != b ? a > b : x.first < y.first;
        });
        std::vector<bool> taken(words_.size());
        std::vector<Row> left;
        for (const Row& row : rows_) {
            const bool whole = words_[row.after - 1].end - words_[row.first].begin == irregular_.size(row.word);
            if (whole && !taken[row.first] && !taken[row.after - 1]) left.push_back(row);
            for (size_t w = row.first; w < row.after; w++) taken[w] = true;
        }
        std::sort(left.begin(), left.end(), [](const Row& x, const Row& y) { return x.first < y.first; });
        const std::vector<Span> before(words_.begin() + int64_t(from_), words_.end());
        words_.resize(from_);
        size_t at = from_;
        for (const Row& row : left) {
            for (; at < row.first; at++) words_.push_back(before[at - from_]);
            const int64_t begin = before[at - from_].begin;
            for (int64_t i = 1, a = 0; i <= irregular_.size(row.word); i++)
                if (i == irregular_.size(row.word) || irregular_.cuts(row.word) >> i & 1) words_.push_back({begin + a, begin + i}), a = i;
            at = row.after;
        }
        for (; at - from_ < before.size(); at++) words_.push_back(before[at - from_]);
    }
};

}  // namespace

void words_of(const Text& text, Span part, const Irregular& irregular, std::vector<Span>& out) {
    Cutter cutter{text.chars, text.classes, irregular, out};
    const size_t from = out.size();
    for (int64_t i = part.begin; i < part.end;) {
        while (i < part.end && cutter.is(i, kBlank)) i++;
        const int64_t a = i;
        uint16_t any = 0, all = 0xFFFF;
        for (; i < part.end && !cutter.is(i, kBlank); i++) any |= text.classes[i], all &= text.classes[i];
        cutter.any = any;
        if (a < i) cutter.chunk(a, i, all);
    }
    Rejoin(text.chars, irregular, out, from).run();
}

}  // namespace danlu_rules
