// Opening a segment, and the all-reduce of shm.h.
#include "shm/add.h"
#include "shm/peer.h"

DANLU_API int64_t danlu_shm_bytes(int ranks, int64_t slot_bytes) {
    if (ranks < 1 || ranks > kShmRanks || slot_bytes < 64 || slot_bytes % 64 || slot_bytes > int64_t(1) << 32) return 0;
    return ranks * (int64_t(sizeof(Line)) + 2 * slot_bytes);
}

DANLU_API int danlu_shm_open(danlu_shm* shm, void* segment, int64_t segment_bytes, int64_t slot_bytes, int rank,
                             int ranks) {
    const int64_t needed = danlu_shm_bytes(ranks, slot_bytes);
    if (!needed || segment_bytes < needed || rank < 0 || rank >= ranks || reinterpret_cast<uintptr_t>(segment) % 64)
        return DANLU_BAD_SIZE;
    *shm = {segment, slot_bytes, rank, ranks, 0, 0, 0, {}};
    for (int32_t& each : shm->watched) each = kNotAsked;
    line(*shm, rank)->process.store(shm_own_process(), std::memory_order_release);
    return DANLU_OK;
}

DANLU_API int danlu_shm_allreduce(danlu_shm* shm, int number, void* data, int64_t count, int64_t timeout_ns,
                                  int* late) {
    return danlu_shm_reduce(shm, number, data, data, count, 0, count, 0, timeout_ns, late);
}

DANLU_API int danlu_shm_repeat(danlu_shm* shm, int number, void* data, int64_t count, int64_t times, int64_t timeout_ns,
                               int* late) {
    for (int64_t i = 0; i < times; i++) {
        const int status = danlu_shm_allreduce(shm, number, data, count, timeout_ns, late);
        if (status) return status;
    }
    return DANLU_OK;
}

DANLU_API void danlu_shm_close(danlu_shm* shm) {
    line(*shm, shm->rank)->process.store(kClosed, std::memory_order_release);
    for (int r = 0; r < shm->ranks; r++) shm_forget(shm->watched[r]);
}
