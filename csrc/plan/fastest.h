// The arguments of danlu_fastest; src/danlu/plan/groups/fastest.py holds the other end. All arrays lie row by row.
#pragma once
#include <cstdint>

struct danlu_fastest_in {
    int64_t ways, places, depth, groups;      // places: units + 1
    const double *time, *fill, *after, *hops; // (ways, places) sums over the first units; hops (ways, groups)
    const int64_t* memory;                    // (depth, ways, places) furthest stop
    const int64_t *group, *cards;             // (ways)
    const int64_t* there;                     // (groups) cards
};
