// The arguments of danlu_covers; src/danlu/plan/groups/covers.py holds the other end. All arrays lie row by row.
#pragma once
#include <cstdint>

struct danlu_covers_in {
    int64_t ways, places, depth, count;  // places: units + 1
    const double *time, *fill, *after;   // (ways, places) sums over the first units
    const double *hop, *more, *price;    // (ways)
    const int64_t* memory;               // (depth, ways, places) furthest stop, behind fewer stages no nearer
    const double *limit, *many, *weight, *budget;  // (count)
    const int64_t* most;                           // (count) stages
};
