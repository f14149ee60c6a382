// Sums over the processes of one host through a segment of shared memory, in the order of ranks: every rank gets the
// same bits.
//
// Each rank has two slots and a counter of the calls it has written. In call s a rank writes its numbers into slot s %
// 2, then publishes s; it adds the slots of all ranks once their counters reach s. Two slots are enough: a rank that
// writes call s has seen every other one publish s - 1, so all have read what call s - 2 left in this slot.
#pragma once

#include <cstdint>

#include "core/status.h"

constexpr int kShmRanks = 64;

enum danlu_number : int { DANLU_F32 = 1, DANLU_BF16 = 2 };

// One rank's end of a segment, in memory of its own. Not for two threads at once.
struct danlu_shm {
    void* segment;
    int64_t slot_bytes;
    int32_t rank, ranks;
    uint64_t calls;
    int32_t watched[kShmRanks];  // file descriptors that tell of a rank's death; -1: none, -2: not asked for yet
};

// Bytes of a segment with slots of slot_bytes (a multiple of 64); 0 when they cannot be meant.
DANLU_API int64_t danlu_shm_bytes(int ranks, int64_t slot_bytes);

// Open one end. The segment was zero when the first rank opened it, and every rank opens it once.
DANLU_API int danlu_shm_open(danlu_shm* shm, void* segment, int64_t segment_bytes, int64_t slot_bytes, int rank,
                             int ranks);

// data becomes the sum over ranks, element by element (bf16 is summed in fp32 and rounded once). Messages longer than a
// slot go in pieces. DANLU_LATE: rank *late did not come within timeout_ns, or is dead, which is seen within
// milliseconds; the segment is then of no more use.
DANLU_API int danlu_shm_allreduce(danlu_shm* shm, int number, void* data, int64_t count, int64_t timeout_ns, int* late);

// The same sum so many times in a row, as a step of a model makes them: what a benchmark times without its own calls.
DANLU_API int danlu_shm_repeat(danlu_shm* shm, int number, void* data, int64_t count, int64_t times, int64_t timeout_ns,
                               int* late);

// Let go of what the end holds beside the segment.
DANLU_API void danlu_shm_close(danlu_shm* shm);
