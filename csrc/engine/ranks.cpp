// Where the ranks that share a model meet: through shared memory (shm/shm.h), on the first thread of each; all threads
// copy and add where a sum is long.
#if defined(__x86_64__)
#include <algorithm>
#include <cstring>

#include "engine/run.h"
#include "shm/add.h"

namespace {

// The other threads see it when they meet the first one next.
void say(const danlu_program& p, int status, int late) {
    if (status != DANLU_OK) *p.stop = {status, late};
}

// The sum of several slots, as danlu_shm_reduce takes it, so that ranks of one thread and of many meet in the same
// turns. A thread writes its part of the next turn's slot only after it has added this turn's, and the first thread
// publishes that turn after all have: the rule of turn.h holds. A call that goes on after a late rank finds its turn
// published already.
void reduce_together(const Run& run, float* data, int64_t count, int part, int parts) {
    const danlu_program& p = *run.program;
    danlu_shm& shm = *p.ranks;
    const Said said{kReduce << 16 | uint32_t(DANLU_F32), 0, count};
    const int64_t each = shm.slot_bytes / int64_t(sizeof(float));
    bool written = shm.waiting;
    uint64_t turn = shm.calls + !written;
    for (int64_t at = shm.done; at < count; at += each, turn++, written = false) {
        const Span mine = part_of(std::min(each, count - at), part, parts);
        auto* to = reinterpret_cast<float*>(slot(shm, shm.rank, turn));
        if (!written) std::copy(data + at + mine.from, data + at + mine.to, to + mine.from);
        run.barrier->meet(parts);
        if (part == 0) {
            int late = -1;
            shm.done = at;
            const auto deadline = Clock::now() + std::chrono::nanoseconds(p.patience_ns);
            say(p, take_turn(shm, said, nullptr, 0, deadline, &late), late);
        }
        run.barrier->meet(parts);
        if (p.stop->status != DANLU_OK) return;
        add_slots(shm, DANLU_F32, mine.from, mine.to - mine.from, data + at + mine.from);
    }
    if (part == 0) shm.done = 0;
}

}  // namespace

// out = the sum of every rank's out.
void op_reduce(const Run& run, const danlu_op& op, int part, int parts) {
    const danlu_buffer& out = run.buffer(op.out);
    const int64_t count = run.rows(out) * out.cols;
    const danlu_program& p = *run.program;
    if (parts > 1 && count * int64_t(sizeof(float)) > p.ranks->slot_bytes)
        return reduce_together(run, out.data, count, part, parts);
    if (part != 0 || count == 0) return;
    int late = -1;
    say(p, danlu_shm_allreduce(p.ranks, DANLU_F32, out.data, count, p.patience_ns, &late), late);
}

// The first rank's out = the columns that every rank has in source, which come one rank after the other and go through
// `other` where there are several rows; the weight says where each rank's columns begin.
void op_gather(const Run& run, const danlu_op& op, int part, int) {
    const danlu_program& p = *run.program;
    const danlu_buffer &out = run.buffer(op.out), &in = run.buffer(op.source), &came = run.buffer(op.other);
    const int64_t rows = run.rows(out);
    if (part != 0 || rows == 0) return;
    const auto* edges = static_cast<const float*>(run.weight(op.weight[0]).data);
    constexpr int64_t kFloat = sizeof(float);
    danlu_flow flows[kShmRanks];
    for (int32_t r = 0; r < p.ranks->ranks; r++) {
        const int64_t first = int64_t(edges[r]) * rows * kFloat, bytes = int64_t(edges[r + 1]) * rows * kFloat - first;
        flows[r] = {bytes, 0, p.ranks->rank ? 0 : bytes, first};
    }
    float* to = rows > 1 ? came.data : out.data;
    int late = -1;
    say(p, danlu_shm_move(p.ranks, in.data, to, flows, 0, p.patience_ns, &late), late);
    if (rows == 1 || p.ranks->rank || p.stop->status != DANLU_OK) return;
    for (int32_t r = 0; r < p.ranks->ranks; r++) {
        const int64_t first = int64_t(edges[r]), width = int64_t(edges[r + 1]) - first;
        for (int64_t t = 0; t < rows; t++)
            std::memcpy(out.data + t * out.cols + first, came.data + first * rows + t * width, size_t(width) * kFloat);
    }
}
#endif
