// How far memory lets a stage reach; memory_ends of plan/groups/stage_ways.py says what and is the reference.
#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

#include "core/status.h"

// For every place, way and start the last stop whose bytes, held and `flight[place]` times kept, are within the room:
// of a stage with the model's end at place 0, of others else. held and kept (ways, places) never fall along the units,
// room is (ways, 2) without and with the model's end, stop (depth, ways, places).
DANLU_API int danlu_memory_ends(const double* held, const double* kept, const double* room, const double* flight,
                                int64_t depth, int64_t ways, int64_t places, int64_t* stop) {
    if (depth < 0 || ways < 0 || places < 1) return DANLU_BAD_SIZE;
    try {
        std::vector<double> need(places);
        for (int64_t place = 0; place < depth; place++)
            for (int64_t way = 0; way < ways; way++, stop += places) {
                const double *h = held + way * places, *k = kept + way * places, most = room[2 * way + (place == 0)];
                for (int64_t s = 0; s < places; s++) need[s] = h[s] + flight[place] * k[s];
                for (int64_t s = 0; s < places; s++)
                    stop[s] = std::upper_bound(need.begin(), need.end(), need[s] + most) - need.begin() - 1;
            }
        return DANLU_OK;
    } catch (const std::bad_alloc&) {
        return DANLU_NO_MEMORY;
    }
}
