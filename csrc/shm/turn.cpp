// The turn of turn.h.
#include "shm/turn.h"

#include <cstring>
#include <thread>

#include "shm/doze.h"
#include "shm/peer.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace {

// Whether `rank` has ended or closed its end. A rank that waits for another asks this of all: one that is gone takes
// those who saw it first out of the turn too.
bool is_gone(danlu_shm& shm, int rank) {
    const int64_t process = line(shm, rank)->process.load(std::memory_order_acquire);
    return process == kClosed || shm_peer_is_dead(shm.watched[rank], process);
}

// The first rank that is gone and will not publish the turn, or -1. What it published before it went still counts.
int first_gone(danlu_shm& shm, uint64_t turn) {
    for (int r = 0; r < shm.ranks; r++)
        if (r != shm.rank && is_gone(shm, r) && line(shm, r)->published.load(std::memory_order_acquire) < turn) return r;
    return -1;
}

// Whether ranks share cores: whoever spins then keeps the core from the one it waits for.
bool crowded([[maybe_unused]] const danlu_shm& shm) {
#if defined(__linux__)
    cpu_set_t cores;
    return !sched_getaffinity(0, sizeof(cores), &cores) && CPU_COUNT(&cores) < shm.ranks;
#else
    return false;
#endif
}

// Waits until `rank` has published that turn. Spins, since peers of a step come within microseconds; then lets others
// have the core, looks at the clock, and asks whether the peers still live. It dozes where ranks share cores, and after
// a millisecond: a leader that waits for a slow link must not share its core with those who wait for it.
int comes(danlu_shm& shm, int rank, uint64_t turn, Clock::time_point deadline, int* late) {
    constexpr int kSpins = 4000, kFew = 100;
    constexpr std::chrono::milliseconds kSoon{1};
    Line& theirs = *line(shm, rank);
    bool doze = false;
    for (int i = 0; i < kSpins && !doze; i++) {
        if (theirs.published.load(std::memory_order_acquire) >= turn) return DANLU_OK;
        doze = i == kFew && crowded(shm);
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    const Clock::time_point began = Clock::now();
    for (Clock::time_point asked{}, now{};; doze = doze || now - began > kSoon) {
        if (doze) {
            theirs.dozing.fetch_add(1);
            if (const uint64_t seen = theirs.published.load(); seen < turn) shm_doze(theirs.published, seen, kSoon);
            theirs.dozing.fetch_sub(1);
        } else {
            std::this_thread::yield();
        }
        if (theirs.published.load(std::memory_order_acquire) >= turn) return DANLU_OK;
        now = Clock::now();
        if (now - asked >= kSoon) {
            asked = now;
            if (const int gone = first_gone(shm, turn); gone >= 0) {
                *late = gone;
                return DANLU_GONE;
            }
        }
        if (now > deadline) {
            *late = rank;
            return DANLU_LATE;
        }
    }
}

bool same(const Said& a, const Said& b) { return a.what == b.what && a.detail == b.detail && a.count == b.count; }

}  // namespace

int take_turn(danlu_shm& shm, const Said& said, const void* piece, int64_t bytes, Clock::time_point deadline,
              int* late) {
    Line& mine = *line(shm, shm.rank);
    if (!shm.waiting) {
        const uint64_t turn = ++shm.calls;
        if (bytes > 0) std::memcpy(slot(shm, shm.rank, turn), piece, bytes);
        mine.said[turn % 2] = said;
        mine.published.store(turn);
        if (mine.dozing.load()) shm_wake(mine.published);
        shm.waiting = 1;
    }
    const uint64_t turn = shm.calls;
    for (int r = 0; r < shm.ranks; r++) {
        if (r == shm.rank) continue;
        if (const int status = comes(shm, r, turn, deadline, late)) return status;
        if (!same(line(shm, r)->said[turn % 2], said)) {
            *late = r;
            return DANLU_OTHER;
        }
        // While it certainly lives: of a process that is gone already nobody could ask.
        if (turn == 1) shm_peer_is_dead(shm.watched[r], line(shm, r)->process.load(std::memory_order_acquire));
    }
    shm.waiting = 0;
    return DANLU_OK;
}
