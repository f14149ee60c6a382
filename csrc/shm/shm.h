// Collectives between the processes of one host through a segment of shared memory. Sums go in the order of ranks:
// every rank, and every run, gets the same bits. turn.h says how ranks take turns at the segment.
#pragma once

#include <cstdint>

#include "core/status.h"

constexpr int kShmRanks = 64;

enum danlu_number : int {
    DANLU_F32 = 1, DANLU_BF16 = 2, DANLU_F16 = 3, DANLU_F64 = 4, DANLU_I32 = 5, DANLU_I64 = 6, DANLU_U8 = 7
};

// One rank's end of a segment, in memory of its own. Not for two threads at once.
struct danlu_shm {
    void* segment;
    int64_t slot_bytes;
    int32_t rank, ranks;
    uint64_t calls;   // turns taken
    int64_t done;     // how far a collective that was late has come
    int64_t waiting;  // 1: this turn's piece is published, others are waited for
    int32_t watched[kShmRanks];  // file descriptors that tell of a rank's death; -1: none, -2: not asked for yet
};

// What a rank puts in, and which part of it this rank takes, in bytes.
struct danlu_flow {
    int64_t bytes;     // that rank's whole input
    int64_t from, to;  // the part this rank takes
    int64_t out;       // where it goes in this rank's output
};

// Bytes of a segment with slots of slot_bytes (a multiple of 64); 0 when they cannot be meant.
DANLU_API int64_t danlu_shm_bytes(int ranks, int64_t slot_bytes);

// Open one end. The segment was zero when the first rank opened it, and every rank opens it once.
DANLU_API int danlu_shm_open(danlu_shm* shm, void* segment, int64_t segment_bytes, int64_t slot_bytes, int rank,
                             int ranks);

// All calls below go in pieces of a slot, and return DANLU_LATE when rank *late did not come within timeout_ns: the
// same call goes on where it was. DANLU_GONE: rank *late is dead, seen within milliseconds; DANLU_OTHER: it is at
// another call (danlu_shm_said tells which); the segment is then of no more use.

// data becomes the sum over ranks, element by element (halves are summed in fp32 and rounded once).
DANLU_API int danlu_shm_allreduce(danlu_shm* shm, int number, void* data, int64_t count, int64_t timeout_ns, int* late);

// out becomes elements from..to of the sum over ranks of `in` (count elements); `detail` must be the same everywhere.
// With out == in and from 0 this is the all-reduce; with each rank's own range the ragged reduce-scatter.
DANLU_API int danlu_shm_reduce(danlu_shm* shm, int number, const void* in, void* out, int64_t count, int64_t from,
                               int64_t to, uint32_t detail, int64_t timeout_ns, int* late);

// out receives a part of every rank's input: one flow per rank. All-gather, broadcast and all-to-all are such flows;
// the bytes of a flow, and `detail`, must be the same everywhere.
DANLU_API int danlu_shm_move(danlu_shm* shm, const void* in, void* out, const danlu_flow* flows, uint32_t detail,
                             int64_t timeout_ns, int* late);

// What a rank said in the turn this end is at: operation << 16 | number, detail, count.
DANLU_API void danlu_shm_said(const danlu_shm* shm, int rank, int64_t* what, int64_t* detail, int64_t* count);

// The same all-reduce so many times in a row, as a step of a model makes them: what a benchmark times without its calls.
DANLU_API int danlu_shm_repeat(danlu_shm* shm, int number, void* data, int64_t count, int64_t times, int64_t timeout_ns,
                               int* late);

// Leave, which the others see as they see a death, and let go of what the end holds beside the segment.
DANLU_API void danlu_shm_close(danlu_shm* shm);
