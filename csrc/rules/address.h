// Addresses that are one word: http://a.org/x-y, mail@host.org, docs.python.org/3. src/danlu/data/address.py has the same.
#pragma once

#include "rules/rules.h"

namespace danlu_rules {

struct Address {
    const uint32_t* c;
    const uint16_t* f;

    static bool digit(uint32_t c) { return c >= '0' && c <= '9'; }
    static bool inner(uint32_t c) {
        return c < 128 ? digit(c) || ((c | 32) >= 'a' && (c | 32) <= 'z') : c >= 0xA1 && c <= 0xFFFF;
    }

    bool label(int64_t a, int64_t b) const {
        if (a >= b || b - a > 64 || !inner(c[a]) || !inner(c[b - 1])) return false;
        for (int64_t i = a; i < b; i++)
            if (!inner(c[i]) && c[i] != '_' && c[i] != '-') return false;
        return true;
    }

    bool name(int64_t a, int64_t b) const {
        int64_t begin = a;
        for (int64_t i = a; i < b; i++) {
            if (c[i] != '.') continue;
            if (!label(begin, i)) return false;
            begin = i + 1;
        }
        if (begin == a || b - begin < 2 || b - begin > 63) return false;
        for (int64_t i = begin; i < b; i++)
            if (!(f[i] & kLower)) return false;
        return true;
    }

    // A public IPv4 address.
    bool number(int64_t a, int64_t b) const {
        int64_t octets[4], i = a;
        for (int n = 0; n < 4; n++) {
            const int64_t begin = i;
            octets[n] = 0;
            for (; i < b && digit(c[i]) && i - begin < 3; i++) octets[n] = 10 * octets[n] + (c[i] - '0');
            const bool outer = n == 0 || n == 3;
            if (i == begin || octets[n] > (n == 0 ? 223 : n == 3 ? 254 : 255)) return false;
            if (c[begin] == '0' && (outer || i - begin == 3)) return false;
            if (n < 3 && (i >= b || c[i++] != '.')) return false;
        }
        if (octets[0] == 10 || octets[0] == 127 || (octets[0] == 172 && octets[1] >= 16 && octets[1] <= 31)) return false;
        return i == b && !(octets[0] == 169 && octets[1] == 254) && !(octets[0] == 192 && octets[1] == 168);
    }

    // Whether a host stands at a, and behind it at most a port and a path.
    bool host(int64_t a, int64_t b) const {
        int64_t end = a;
        while (end < b && c[end] != ':' && c[end] != '/' && c[end] != '?' && c[end] != '#' && c[end] != '@') end++;
        if (end < b && c[end] == '@') return false;
        int64_t rest = end;
        if (rest < b && c[rest] == ':') {
            rest++;
            while (rest < b && digit(c[rest])) rest++;
            if (rest - end < 3 || rest - end > 6) return false;
        }
        if (rest < b && c[rest] != '/' && c[rest] != '?' && c[rest] != '#') return false;
        return name(a, end) || number(a, end);
    }

    // Whether [a, b) is one.
    bool is(int64_t a, int64_t b) const {
        int64_t dot = a;
        while (dot < b && c[dot] != '.') dot++;
        if (dot == b) return false;
        if (host(a, b)) return true;
        int64_t behind = b, i = a;  // behind a scheme
        while (i < b && ((f[i] & (kAlpha | kDigit)) || c[i] == '+' || c[i] == '-' || c[i] == '.' || c[i] == '_')) i++;
        if (i - a >= 2 && i + 2 < b && c[i] == ':' && c[i + 1] == '/' && c[i + 2] == '/') behind = i + 3;
        if (behind < b && host(behind, b)) return true;
        for (i = a + 1; i + 1 < b; i++)
            if (c[i] == '@' && host(i + 1, b)) return true;
        return false;
    }
};

}  // namespace danlu_rules
