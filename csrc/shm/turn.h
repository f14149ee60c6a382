// One turn at a segment: write a piece, publish it, wait for everyone's. All collectives are made of turns.
//
// In turn s a rank writes into its slot s % 2, then publishes s; it reads the others' slots once their counters reach s.
// Two slots are enough: a rank that writes turn s has seen every other one publish s - 1, so all have read what turn
// s - 2 left in this slot.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "shm/shm.h"

using Clock = std::chrono::steady_clock;

// What a rank is about to do; the ranks of a turn must say the same.
struct Said {
    uint32_t what;    // operation << 16 | number format
    uint32_t detail;  // whatever else must agree: the root, a hash of counts
    int64_t count;
};

constexpr uint32_t kReduce = 1, kMove = 2;  // operations
constexpr int64_t kClosed = -1;

// A rank's counter has a cache line of its own, so that waiting for one rank does not slow another's writes.
struct alignas(64) Line {
    std::atomic<uint64_t> published;
    std::atomic<int64_t> process;  // 0 before it opens its end, kClosed afterwards
    Said said[2];  // of the newest two turns
    std::atomic<uint32_t> dozing;  // ranks that may have to be woken when `published` moves on
};
static_assert(sizeof(Line) == 64 && std::atomic<uint64_t>::is_always_lock_free, "counters must work between processes");

inline Line* line(const danlu_shm& shm, int rank) { return static_cast<Line*>(shm.segment) + rank; }

inline char* slot(const danlu_shm& shm, int rank, uint64_t turn) {
    char* slots = static_cast<char*>(shm.segment) + shm.ranks * int64_t(sizeof(Line));
    return slots + (rank * 2 + int64_t(turn % 2)) * shm.slot_bytes;
}

// Write `bytes` of this rank's piece and wait for everyone's; afterwards shm.calls is the turn whose slots may be read.
// DANLU_LATE and DANLU_GONE name *late; a late turn is taken up again by the same call. DANLU_OTHER: *late says
// something else.
int take_turn(danlu_shm& shm, const Said& said, const void* piece, int64_t bytes, Clock::time_point deadline, int* late);
