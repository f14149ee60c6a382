// The fastest pipeline of every number of cards of each group; plan/groups/fastest.py says what and small.py is the reference.
#include <algorithm>
#include <limits>
#include <new>
#include <vector>

#include "core/status.h"
#include "plan/fastest.h"

namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// The model's end from `start` on so many cards (a number in mixed radix): its longest load, and its fill. `front` has
// a bit for each group that the stage before it may be of, with the message that longest and fill have.
struct Label {
    double longest, fill;
    int32_t used, before;  // before: the label of the units behind this stage
    int16_t start, way;
    uint32_t front;
};

// What the units in front of a place cost at least, whatever stages they get.
struct Least {
    std::vector<double> fill;   // (places)
    std::vector<double> share;  // (places) of the whole load, counted where it is the smallest part of its group's
    std::vector<double> speed;  // (states) whole models per second of load, of all the cards that a state leaves
};

struct Search {
    const danlu_fastest_in& in;
    int64_t states = 1;
    std::vector<int64_t> radix;              // (groups)
    std::vector<std::vector<int64_t>> used;  // (states, groups)
    std::vector<Label> labels;
    std::vector<std::vector<int32_t>> known;  // (places * states * groups) labels that none beats, by their first group

    explicit Search(const danlu_fastest_in& given) : in(given) {
        for (int64_t g = 0; g < in.groups; g++) {
            radix.push_back(states);
            states *= in.there[g] + 1;
        }
        for (int64_t s = 0; s < states; s++) {
            used.emplace_back();
            for (int64_t g = 0; g < in.groups; g++) used[s].push_back(s / radix[g] % (in.there[g] + 1));
        }
        known.resize(in.places * states * in.groups);
    }

    double load(int64_t way, int64_t start, int64_t stop, double many) const {
        const int64_t a = way * in.places + start, b = way * in.places + stop;
        return (many - 1) * (in.time[b] - in.time[a]) + in.after[b] - in.after[a];
    }

    Least least(double many) const {
        const int64_t units = in.places - 1;
        std::vector<double> whole(in.groups, 0.0), part(in.groups * units, kNever);
        Least found{std::vector<double>(in.places, 0.0), std::vector<double>(in.places, 0.0), {}};
        double hop = kNever;
        for (int64_t i = 0; i < in.ways * in.groups; i++) hop = std::min(hop, in.hops[i]);
        for (int64_t u = 0; u < units; u++) {
            double fill = kNever;
            for (int64_t way = 0; way < in.ways; way++) {
                double& each = part[in.group[way] * units + u];
                each = std::min(each, in.cards[way] * load(way, u, u + 1, many));
                fill = std::min(fill, in.fill[way * in.places + u + 1] - in.fill[way * in.places + u]);
            }
            found.fill[u + 1] = found.fill[u] + fill + (u ? 0.0 : hop);
            for (int64_t g = 0; g < in.groups; g++) whole[g] += part[g * units + u];
        }
        for (int64_t u = 0; u < units; u++) {
            double share = kNever;
            for (int64_t g = 0; g < in.groups; g++)
                if (whole[g] < kNever) share = std::min(share, whole[g] > 0 ? part[g * units + u] / whole[g] : 0.0);
            found.share[u + 1] = found.share[u] + share;
        }
        for (int64_t s = 0; s < states; s++) {
            double speed = 0;
            for (int64_t g = 0; g < in.groups; g++)
                if (const int64_t left = in.there[g] - used[s][g]; left) speed += whole[g] > 0 ? left / whole[g] : kNever;
            found.speed.push_back(speed);
        }
        return found;
    }

    // Keep a label unless one with as many stages or fewer is no worse.
    bool add(const Label& label) {
        std::vector<int32_t>& rivals = known[(label.start * states + label.used) * in.groups + in.group[label.way]];
        for (int32_t each : rivals)
            if (labels[each].longest <= label.longest && labels[each].fill <= label.fill &&
                !(label.front & ~labels[each].front))
                return false;
        rivals.push_back(int32_t(labels.size()));
        labels.push_back(label);
        return true;
    }

    // Fills seconds (states) and, for those below infinity, count (states) and stages (states, depth, 2): way, start.
    void run(double many, double limit, double* seconds, int64_t* count, int64_t* stages) {
        const Least rest = least(many);
        std::vector<int32_t> best(states, -1), now{0}, next;
        labels.assign(1, Label{0.0, 0.0, 0, -1, int16_t(in.places - 1), -1, ~0u});
        for (auto& each : known) each.clear();
        std::fill(seconds, seconds + states, kNever);
        for (int64_t place = 0; place < in.depth && place < many && !now.empty(); place++, now.swap(next)) {
            next.clear();
            for (const int32_t from : now)
                for (int64_t way = 0; way < in.ways; way++) extend(from, way, place, many, limit, rest, seconds, best, next);
        }
        for (int64_t s = 0; s < states; s++) {
            count[s] = 0;
            for (int32_t at = best[s]; at > 0; at = labels[at].before, count[s]++) {
                stages[(s * in.depth + count[s]) * 2] = labels[at].way;
                stages[(s * in.depth + count[s]) * 2 + 1] = labels[at].start;
            }
        }
    }

    // One more stage in front of a label.
    void extend(int32_t from, int64_t way, int64_t place, double many, double limit, const Least& rest, double* seconds,
                std::vector<int32_t>& best, std::vector<int32_t>& next) {
        const Label behind = labels[from];
        const int64_t g = in.group[way], stop = behind.start, state = behind.used + in.cards[way] * radix[g];
        if (used[behind.used][g] + in.cards[way] > in.there[g] || !(behind.front >> g & 1)) return;
        const double *fill = in.fill + way * in.places, *hops = in.hops + way * in.groups;
        const double back = place ? hops[in.group[behind.way]] : 0.0;
        for (int64_t start = stop - 1; start >= 0; start--) {
            if (in.memory[(place * in.ways + way) * in.places + start] < stop) break;
            const double inner = load(way, start, stop, many) + (many - 1) * back;
            if (inner >= limit) break;
            const double filled = behind.fill + fill[stop] - fill[start] + back;
            if (start == 0) {
                const Label label{std::max(behind.longest, inner), filled, int32_t(state), from, 0, int16_t(way), 0};
                const double whole = label.longest + label.fill;
                if (whole >= limit || whole >= seconds[state]) continue;
                seconds[state] = whole;
                best[state] = int32_t(labels.size());
                labels.push_back(label);
                continue;
            }
            const double ahead = rest.speed[state] > 0 ? rest.share[start] / rest.speed[state] : kNever;
            for (int64_t front = 0; front < in.groups; front++) {
                uint32_t alike = 0;  // groups with cards left, to which a message takes as long
                for (int64_t each = 0; each < in.groups; each++)
                    alike |= uint32_t(hops[each] == hops[front] && used[state][each] < in.there[each]) << each;
                if (!(alike >> front & 1) || alike & ((1u << front) - 1)) continue;
                const Label label{std::max(behind.longest, inner + (many - 1) * hops[front]), filled + hops[front],
                                  int32_t(state), from, int16_t(start), int16_t(way), alike};
                if (std::max(label.longest, ahead) + label.fill + rest.fill[start] >= limit) continue;
                if (add(label)) next.push_back(int32_t(labels.size()) - 1);
            }
        }
    }
};

}  // namespace

// For 1 to `most` micro-batches, until none ends within `limit` seconds: the fastest pipelines, by the cards they take,
// of no more stages than micro-batches.
// seconds and count are (most, states), stages (most, states, depth, 2); how many of `most` were filled is in `reached`.
DANLU_API int danlu_fastest(const danlu_fastest_in* in, int64_t most, double limit, double* seconds, int64_t* count,
                            int64_t* stages, int64_t* reached) {
    if (in->ways < 1 || in->places < 2 || in->depth < 1 || in->groups < 1 || in->groups > 32) return DANLU_BAD_SIZE;
    if (in->places > 32767 || in->ways > 32767) return DANLU_BAD_SIZE;
    try {
        Search search(*in);
        for (*reached = 0; *reached < most; ++*reached) {
            const int64_t row = *reached * search.states;
            search.run(double(*reached + 1), limit, seconds + row, count + row, stages + row * in->depth * 2);
            const bool none = *std::min_element(seconds + row, seconds + row + search.states) == kNever;
            if (none && *reached + 1 >= in->depth) break;  // fewer micro-batches than stages: more may do what these cannot
        }
        return DANLU_OK;
    } catch (const std::bad_alloc&) {
        return DANLU_NO_MEMORY;
    }
}
