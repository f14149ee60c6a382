// Least costs of covering a model's units with stages, for many bottlenecks; plan/groups/covers.py says what and is the reference.
#include <algorithm>
#include <limits>
#include <new>
#include <vector>

#include "core/status.h"
#include "plan/covers.h"

namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// What a bottleneck lets stages do: how far one reaches from each start, without and with the model's last unit.
struct Reach {
    std::vector<int32_t> inner, last;
};

// Furthest stop from each start whose load stays within `room`; the first start has `first` more. Both only move on.
void furthest(const std::vector<double>& load, double room, double first, int32_t* stop) {
    const int32_t places = int32_t(load.size());
    int32_t end = 0;
    for (int32_t s = 1; s < places; s++) {
        const double target = load[s] + room * (1 + 1e-12);
        for (end = std::max(end, s); end + 1 < places && load[end + 1] <= target;) end++;
        stop[s] = end;
    }
    const double target = load[0] + (room + first) * (1 + 1e-12);
    for (end = 0; end + 1 < places && load[end + 1] <= target;) end++;
    stop[0] = end;
}

Reach reach(const danlu_covers_in& in, int64_t at) {
    const int64_t places = in.places;
    Reach found{std::vector<int32_t>(in.ways * places), std::vector<int32_t>(in.ways * places)};
    std::vector<double> load(places);
    for (int64_t way = 0; way < in.ways; way++) {
        const double *time = in.time + way * places, *after = in.after + way * places, hop = in.hop[way],
                     more = in.more[way] * (1 + 1 / in.many[at]);
        for (int64_t s = 0; s < places; s++) load[s] = time[s] + after[s] / in.many[at];
        furthest(load, in.limit[at] - 2 * hop - more, hop, &found.inner[way * places]);
        furthest(load, in.limit[at] - hop - more, hop, &found.last[way * places]);
    }
    return found;
}

struct Stage {
    const danlu_covers_in& in;
    const Reach& far;
    int64_t at, place;

    int32_t end(int64_t way, int64_t start) const {
        const int64_t i = way * in.places + start;
        return std::min<int32_t>(place ? far.inner[i] : far.last[i],
                                 int32_t(in.memory[place * in.ways * in.places + i]));
    }
    const double* fill(int64_t way) const { return in.fill + way * in.places; }
    double cost(int64_t way, int64_t start) const {
        const double sent = in.hop[way] * ((place > 0) + (start > 0));
        return in.price[way] + in.weight[at] * (sent - fill(way)[start]);
    }
};

// One more stage in front of what `before` covers; windows (start, end] only move on, so a queue holds their least.
void extend(const Stage& stage, const double* before, double* after, std::vector<double>& value,
            std::vector<int32_t>& queue) {
    const int64_t places = stage.in.places;
    std::fill(after, after + places, kNever);
    int64_t low = 0, high = places - 1;
    while (low < places && before[low] == kNever) low++;
    while (high > low && before[high] == kNever) high--;
    if (low == places) return;
    for (int64_t way = 0; way < stage.in.ways; way++) {
        const double* fill = stage.fill(way);
        for (int64_t u = low; u <= high; u++) value[u] = before[u] + stage.in.weight[stage.at] * fill[u];
        int64_t first = std::max<int64_t>(low, 1);
        while (first > 1 && stage.end(way, first - 1) >= low) first--;
        int64_t head = 0, tail = 0, next = low;
        for (int64_t s = first; s < high; s++) {
            const int64_t end = std::min<int64_t>(stage.end(way, s), high);
            for (next = std::max(next, s + 1); next <= end; next++) {
                while (tail > head && value[queue[tail - 1]] >= value[next]) tail--;
                queue[tail++] = int32_t(next);
            }
            while (head < tail && queue[head] <= s) head++;
            if (head < tail) after[s] = std::min(after[s], value[queue[head]] + stage.cost(way, s));
        }
        const int64_t end = std::min<int64_t>(stage.end(way, 0), high);
        for (int64_t u = std::max<int64_t>(low, 1); u <= end; u++)
            after[0] = std::min(after[0], value[u] + stage.cost(way, 0));
    }
}

// The least that the units in front of each place can cost, were memory no shorter than behind one stage.
struct Ahead {
    std::vector<double> least, value;
    std::vector<int32_t> queue, head, tail;

    void fill(const Stage& stage) {
        const int64_t ways = stage.in.ways, places = stage.in.places;
        least.assign(places, kNever), value.resize(ways * places), queue.resize(ways * places);
        head.assign(ways, 0), tail.assign(ways, 0);
        least[0] = 0.0;
        for (int64_t u = 1; u < places; u++) {
            for (int64_t way = 0; way < ways; way++) {
                int32_t *line = &queue[way * places], &first = head[way], &last = tail[way];
                double *cost = &value[way * places], added = stage.in.weight[stage.at] * stage.fill(way)[u];
                cost[u - 1] = least[u - 1] + stage.cost(way, u - 1);
                if (u > 1) {
                    while (last > first && cost[line[last - 1]] >= cost[u - 1]) last--;
                    line[last++] = int32_t(u - 1);
                }
                while (first < last && stage.end(way, line[first]) < u) first++;
                if (first < last) least[u] = std::min(least[u], cost[line[first]] + added);
                if (stage.end(way, 0) >= u) least[u] = std::min(least[u], cost[0] + added);
            }
        }
    }
};

}  // namespace

// `whole` (count, depth + 1) is least[.., 0]; of `least` (count, depth + 1, places) rows behind the last cover are left.
DANLU_API int danlu_covers(const danlu_covers_in* in, double* least, double* whole) {
    if (in->ways < 1 || in->places < 2 || in->depth < 1 || in->count < 0) return DANLU_BAD_SIZE;
    try {
        const int64_t places = in->places, rows = in->depth + 1;
        std::vector<double> value(places), cheapest(places);
        std::vector<int32_t> queue(places);
        std::fill(whole, whole + in->count * rows, kNever);
        Ahead ahead;
        for (int64_t at = 0; at < in->count; at++, whole += rows) {
            const Reach far = reach(*in, at);
            double *row = least + at * rows * places, best = in->budget[at];
            std::fill(row, row + places, kNever);
            row[places - 1] = 0.0;
            std::fill(cheapest.begin(), cheapest.end(), kNever);
            ahead.fill(Stage{*in, far, at, std::min<int64_t>(1, in->depth - 1)});
            for (int64_t place = 0; place < std::min(in->depth, in->most[at]); place++, row += places) {
                extend(Stage{*in, far, at, place}, row, row + places, value, queue);
                best = std::min(best, row[places]);
                // A cover that with the least of what is in front costs more than a whole one is of no use; nor is one
                // that costs no less than a cover of the same units on fewer stages, which leaves those more memory.
                bool open = false;
                for (int64_t s = 0; s < places; s++) {
                    if (row[places + s] < cheapest[s] && (s == 0 || row[places + s] + ahead.least[s] < best)) {
                        cheapest[s] = row[places + s];
                        open = open || s > 0;
                    } else {
                        row[places + s] = kNever;
                    }
                }
                whole[place + 1] = row[places];
                if (!open) break;
            }
        }
        return DANLU_OK;
    } catch (const std::bad_alloc&) {
        return DANLU_NO_MEMORY;
    }
}

// The stages of the cheapest cover on wanted[2i + 1] stages at bottleneck wanted[2i]: wanted rising, depth places a row.
DANLU_API int danlu_cover_stages(const danlu_covers_in* in, const double* least, const int64_t* wanted, int64_t rows,
                                 int64_t* ways, int64_t* stops) {
    try {
        Reach far;
        for (int64_t row = 0; row < rows; row++, ways += in->depth, stops += in->depth) {
            const int64_t at = wanted[2 * row], count = wanted[2 * row + 1];
            if (at < 0 || at >= in->count || count < 1 || count > in->depth) return DANLU_BAD_SIZE;
            if (!row || at != wanted[2 * row - 2]) far = reach(*in, at);
            int64_t start = 0;
            for (int64_t i = 0; i < count; i++) {
                const int64_t place = count - 1 - i;
                const double *before = least + (at * (in->depth + 1) + place) * in->places, weight = in->weight[at];
                const Stage stage{*in, far, at, place};
                double best = kNever;
                for (int64_t way = 0; way < in->ways; way++) {
                    const double *fill = stage.fill(way), rest = stage.cost(way, start);
                    for (int64_t u = start + 1, end = stage.end(way, start); u <= end; u++)
                        if (before[u] + weight * fill[u] + rest < best)
                            best = before[u] + weight * fill[u] + rest, ways[i] = way, stops[i] = u;
                }
                if (best == kNever) return DANLU_BAD_SIZE;
                start = stops[i];
            }
        }
        return DANLU_OK;
    } catch (const std::bad_alloc&) {
        return DANLU_NO_MEMORY;
    }
}
