// Words as English tokenizers cut them: blanks first, then signs peeled off both ends, then signs between letters.
//
// measure.py has the same rules in Python. A Chinese or Japanese character is a word of its own.
#include <cstring>

#include "rules/rules.h"

namespace danlu_rules {
namespace {

struct Cutter {
    const uint32_t* c;
    const uint16_t* f;
    std::vector<Span>& out;

    void word(int64_t a, int64_t b) const { if (a < b) out.push_back({a, b}); }
    bool is(int64_t i, uint16_t classes) const { return f[i] & classes; }

    // Length of a sign that stands alone at the front of [a, b); 0 if there is none.
    int64_t front(int64_t a, int64_t b) const {
        if (c[a] == '.') {
            int64_t i = a;
            while (i < b && c[i] == '.') i++;
            return i - a > 1 ? i - a : 0;
        }
        if (c[a] == '\'' && a + 1 < b && c[a + 1] == '\'') return 2;
        if (is(a, kPeel | kIcon | kMoney | kFront)) return 1;
        return c[a] == '+' && !(a + 1 < b && is(a + 1, kDigit));
    }

    // Length of a unit of measure that ends [a, b) right after a digit.
    int64_t unit(int64_t a, int64_t b) const {
        static const char* kUnits[] = {
            "km", "m", "dm", "cm", "mm", "ha", "nm", "yd", "in", "ft", "kg", "g", "mg", "t", "lb", "oz", "m/s", "km/h", "kmh",
            "mph", "hPa", "Pa", "mbar", "mb", "MB", "kb", "KB", "gb", "GB", "tb", "TB", "T", "G", "M", "K", "%"};
        int64_t i = b;
        while (i > a && b - i < 5 && !is(i - 1, kDigit)) i--;
        if (i == a || i == b || !is(i - 1, kDigit)) return 0;
        for (const char* each : kUnits) {
            const int64_t size = int64_t(std::strlen(each));
            if (size != b - i) continue;
            int64_t j = 0;
            while (j < size && c[i + j] == uint32_t(each[j])) j++;
            if (j == size) return size;
        }
        return 0;
    }

    int64_t back(int64_t a, int64_t b) const {
        const uint32_t last = c[b - 1];
        if (b - a > 1 && ((last == ':' && c[b - 2] == ')') || (last == '\'' && c[b - 2] == '\''))) return 2;
        if (is(b - 1, kPeel | kIcon) || last == 0x2014 || last == 0x2013) return 1;
        if (last == '.') {
            int64_t i = b;
            while (i > a && c[i - 1] == '.') i--;
            if (b - i > 1) return b - i;
            if (i == a) return 0;
            const uint32_t before = c[i - 1];
            if (is(i - 1, kDigit | kLower | kPeel | kQuote) || before == '%' || before == 0xB2 || before == '-' || before == '+')
                return 1;
            return i - 2 >= a && is(i - 1, kUpper) && is(i - 2, kUpper);
        }
        if (b - a < 2) return 0;
        if ((last == 's' || last == 'S') && (c[b - 2] == '\'' || c[b - 2] == 0x2019)) return 2;
        if (is(b - 2, kDigit) && (last == '+' || is(b - 1, kMoney))) return 1;
        return is(b - 1, kAlpha) || last == '%' ? unit(a, b) : 0;
    }

    bool same(int64_t a, int64_t b, const char* text) const {
        const int64_t size = int64_t(std::strlen(text));
        if (b - a != size) return false;
        for (int64_t i = 0; i < size; i++)
            if (c[a + i] != uint32_t(text[i])) return false;
        return true;
    }

    // "e.g.", "a.", "Dr.": the last dot belongs to the word.
    bool abbreviation(int64_t a, int64_t b) const {
        static const char* kTitles[] = {"Mr.", "Mrs.", "Ms.", "Dr.", "Prof.", "St.", "Co.", "Corp.", "Inc.", "Ltd.", "Jr.", "Sr.",
                                        "vs.", "Jan.", "Feb.", "Mar.", "Apr.", "Jun.", "Jul.", "Aug.", "Sep.", "Sept.", "Oct.",
                                        "Nov.", "Dec.", "Gen.", "Gov.", "Rep.", "Rev.", "Sen.", "Mt.", "Adm.", "Bros.", "Ph.D."};
        if (c[b - 1] != '.' || b - a > 6) return false;
        if (b - a == 2) return c[a] >= 'a' && c[a] <= 'z';
        bool dotted = (b - a) % 2 == 0;
        for (int64_t i = a; i < b && dotted; i++) dotted = (i - a) % 2 ? c[i] == '.' : is(i, kAlpha);
        if (dotted) return true;
        for (const char* each : kTitles)
            if (same(a, b, each)) return true;
        return false;
    }

    // "http://...", "mail@host.org", "docs.python.org/3": one word.
    bool address(int64_t a, int64_t b) const {
        int64_t from = a;
        for (int64_t i = a; i + 2 < b; i++)
            if (c[i] == ':' && c[i + 1] == '/' && c[i + 2] == '/') {
                from = i - a >= 2 ? i + 3 : b;
                for (int64_t j = a; j < i; j++)
                    if (!is(j, kAlpha | kDigit) && c[j] != '+' && c[j] != '-' && c[j] != '.' && c[j] != '_') from = b;
                break;
            }
        for (int64_t i = from; i < b && c[i] != '/' && c[i] != '?' && c[i] != '#'; i++)
            if (c[i] == '@' && i > from) from = i + 1;
        int64_t label = from, dots = 0, numbers = 0, i = from;
        for (; i < b; i++) {
            if (c[i] == '.') {
                if (i == label || !inner(label) || !inner(i - 1)) return false;
                numbers += is(i - 1, kDigit), dots++, label = i + 1;
            } else if (!inner(i) && c[i] != '_' && c[i] != '-') {
                break;
            }
        }
        if (!dots || i == label) return false;
        bool letters = i - label >= 2;
        for (int64_t j = label; j < i && letters; j++) letters = is(j, c[j] < 128 ? kLower : kAlpha);
        if (!letters && !(dots == 3 && numbers == 3 && is(i - 1, kDigit))) return false;
        if (i < b && c[i] == ':') {
            int64_t j = i + 1;
            while (j < b && is(j, kDigit)) j++;
            if (j - i < 3) return false;
            i = j;
        }
        return i == b || c[i] == '/' || c[i] == '?' || c[i] == '#';
    }
    bool inner(int64_t i) const { return is(i, kDigit) || (c[i] < 128 ? is(i, kAlpha) : c[i] >= 0xA1); }

    // "don't", "we'll", "cannot": where the second word begins; b if there is none.
    int64_t contracted(int64_t a, int64_t b) const {
        if (same(a, b, "cannot") || same(a, b, "Cannot")) return a + 3;
        int64_t mark = b - 1;
        while (mark > a && b - mark <= 3 && c[mark] != '\'' && c[mark] != 0x2019) mark--;
        if (mark <= a || (c[mark] != '\'' && c[mark] != 0x2019)) return b;
        if (mark >= a + 2 && same(mark + 1, b, "t") && c[mark - 1] == 'n') return mark - 1;
        for (const char* each : {"ll", "ve", "re", "d", "m"})
            if (same(mark + 1, b, each)) return mark;
        return b;
    }

    // Length of a sign between two words at i, inside (a, b); 0 if there is none.
    int64_t between(int64_t i, int64_t a, int64_t b) const {
        if (c[i] == '.') {
            int64_t j = i;
            while (j < b && c[j] == '.') j++;
            if (j - i > 1) return j - i;
        }
        if (is(i, kIcon) || c[i] == 0x2026) return 1;
        if (i == a || is(i, kAlpha | kDigit) || i + 1 >= b) return 0;
        const bool letter = is(i - 1, kAlpha), figure = is(i - 1, kDigit);
        if (figure && (is(i + 1, kDigit) || c[i + 1] == '-') && (c[i] == '+' || c[i] == '-' || c[i] == '*' || c[i] == '^')) return 1;
        if (c[i] == '.') return is(i - 1, kLower | kQuote) && is(i + 1, kUpper | kQuote);
        if (c[i] == ',') return letter && is(i + 1, kAlpha);
        if (!letter && !figure) return 0;
        if (c[i] == '-' || c[i] == 0x2013 || c[i] == 0x2014 || c[i] == '~') {
            int64_t j = i;
            while (c[i] == '-' && j < b && j - i < 3 && c[j] == '-') j++;
            if (j == i) j = i + 1;
            return j < b && is(j, kAlpha) ? j - i : 0;
        }
        return (c[i] == ':' || c[i] == '<' || c[i] == '>' || c[i] == '=' || c[i] == '/') && is(i + 1, kAlpha);
    }

    void core(int64_t a, int64_t b, bool han) const {
        if (a >= b) return;
        if ((!han && address(a, b)) || same(a, b, "and/or")) return word(a, b);
        const int64_t second = contracted(a, b);
        if (second < b) return word(a, second), word(second, b);
        int64_t begin = a;
        for (int64_t i = a; i < b;) {
            const int64_t sign = han && is(i, kCjk | kPeel) ? 1 : between(i, a, b);
            if (!sign) { i++; continue; }
            word(begin, i);
            word(i, i + sign);
            begin = i += sign;
        }
        word(begin, b);
    }

    void chunk(int64_t a, int64_t b) const {
        uint16_t any = 0, all = kAlpha;
        for (int64_t i = a; i < b; i++) any |= f[i], all &= f[i];
        if (all && !(any & kCjk) && b - a != 6) return word(a, b);
        std::vector<Span> behind;
        while (a < b && !abbreviation(a, b)) {
            const int64_t first = front(a, b);
            word(a, a + first), a += first;
            if (a == b || abbreviation(a, b)) break;
            const int64_t last = back(a, b);
            if (last) behind.push_back({b - last, b}), b -= last;
            if (!first && !last) break;
        }
        if (a < b && abbreviation(a, b)) word(a, b);
        else core(a, b, any & kCjk);
        for (size_t i = behind.size(); i--;) out.push_back(behind[i]);
    }
};

}  // namespace

void words_of(const Text& text, Span part, std::vector<Span>& out) {
    const Cutter cutter{text.chars, text.classes, out};
    for (int64_t i = part.begin; i < part.end;) {
        while (i < part.end && cutter.is(i, kBlank)) i++;
        const int64_t a = i;
        while (i < part.end && !cutter.is(i, kBlank)) i++;
        if (a < i) cutter.chunk(a, i);
    }
}

}  // namespace danlu_rules
