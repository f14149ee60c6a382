// The most value of whole pieces, any number of each; plan/groups/pack.py says what and is the reference.
#include <algorithm>
#include <cstdint>

#include "core/status.h"

// best[n] is raised to the most value of pieces of n together, from what it was: 0 for no pieces.
DANLU_API int danlu_knapsack(const double* value, const int64_t* size, int64_t pieces, int64_t places, double* best) {
    for (int64_t i = 0; i < pieces; i++) {
        if (size[i] < 1) return DANLU_BAD_SIZE;
        for (int64_t n = size[i]; n < places; n++) best[n] = std::max(best[n], best[n - size[i]] + value[i]);
    }
    return DANLU_OK;
}
