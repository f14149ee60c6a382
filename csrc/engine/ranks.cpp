// Where the ranks that share a model meet: through shared memory (shm/shm.h), on the first thread of each.
#if defined(__x86_64__)
#include <cstring>

#include "engine/run.h"

namespace {

// The other threads see it when they meet the first one next.
void say(const danlu_program& p, int status, int late) {
    if (status != DANLU_OK) *p.stop = {status, late};
}

}  // namespace

// out = the sum of every rank's out.
void op_reduce(const Run& run, const danlu_op& op, int part, int) {
    const danlu_buffer& out = run.buffer(op.out);
    const int64_t count = run.rows(out) * out.cols;
    if (part != 0 || count == 0) return;
    const danlu_program& p = *run.program;
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
