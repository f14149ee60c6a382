// The ragged collectives of shm.h: sums of a part, and parts moved from rank to rank.
#include <algorithm>
#include <cstring>

#include "shm/add.h"

namespace {

Clock::time_point after(int64_t timeout_ns) { return Clock::now() + std::chrono::nanoseconds(timeout_ns); }

}  // namespace

DANLU_API int danlu_shm_reduce(danlu_shm* shm, int number, const void* in, void* out, int64_t count, int64_t from,
                               int64_t to, uint32_t detail, int64_t timeout_ns, int* late) {
    const int64_t width = number_bytes(number);
    if (!width || count < 0 || from < 0 || to < from || to > count || timeout_ns < 0) return DANLU_BAD_SIZE;
    const Clock::time_point deadline = after(timeout_ns);
    const Said said{kReduce << 16 | uint32_t(number), detail, count};
    const int64_t each = shm->slot_bytes / width;
    for (int64_t& at = shm->done; at < count || (!count && !at); at += std::max<int64_t>(each, 1)) {
        const int64_t here = std::min(each, count - at);
        const auto* piece = static_cast<const char*>(in) + at * width;
        if (const int status = take_turn(*shm, said, piece, here * width, deadline, late)) return status;
        const int64_t begin = std::max(from, at), end = std::min(to, at + here);
        if (begin < end) add_slots(*shm, number, begin - at, end - begin, static_cast<char*>(out) + (begin - from) * width);
    }
    shm->done = 0;
    return DANLU_OK;
}

DANLU_API int danlu_shm_move(danlu_shm* shm, const void* in, void* out, const danlu_flow* flows, uint32_t detail,
                             int64_t timeout_ns, int* late) {
    int64_t longest = 0, total = 0;
    for (int r = 0; r < shm->ranks; r++) {
        const danlu_flow& flow = flows[r];
        if (flow.bytes < 0 || flow.from < 0 || flow.to < flow.from || flow.to > flow.bytes || flow.out < 0)
            return DANLU_BAD_SIZE;
        longest = std::max(longest, flow.bytes);
        total += flow.bytes;
    }
    if (timeout_ns < 0) return DANLU_BAD_SIZE;
    const Clock::time_point deadline = after(timeout_ns);
    const Said said{kMove << 16, detail, total};
    const int64_t each = shm->slot_bytes, mine = flows[shm->rank].bytes;
    for (int64_t& at = shm->done; at < longest || (!longest && !at); at += each) {
        const int64_t here = std::clamp<int64_t>(mine - at, 0, each);
        const auto* piece = static_cast<const char*>(in) + at;
        if (const int status = take_turn(*shm, said, piece, here, deadline, late)) return status;
        for (int r = 0; r < shm->ranks; r++) {
            const danlu_flow& flow = flows[r];
            const int64_t begin = std::max(flow.from, at), end = std::min(flow.to, at + each);
            if (begin < end)
                std::memcpy(static_cast<char*>(out) + flow.out + begin - flow.from,
                            slot(*shm, r, shm->calls) + begin - at, end - begin);
        }
    }
    shm->done = 0;
    return DANLU_OK;
}

DANLU_API void danlu_shm_said(const danlu_shm* shm, int rank, int64_t* what, int64_t* detail, int64_t* count) {
    const Said& said = line(*shm, rank)->said[shm->calls % 2];
    *what = said.what, *detail = said.detail, *count = said.count;
}
