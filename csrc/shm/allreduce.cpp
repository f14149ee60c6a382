// The all-reduce of shm.h.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "shm/peer.h"
#include "shm/shm.h"

namespace {

using Clock = std::chrono::steady_clock;

// A rank's counter has a cache line of its own, so that waiting for one rank does not slow another's writes.
struct alignas(64) Line {
    std::atomic<uint64_t> published;
    std::atomic<int64_t> process;
};
static_assert(std::atomic<uint64_t>::is_always_lock_free, "counters must work between processes");

Line* line(const danlu_shm& shm, int rank) { return static_cast<Line*>(shm.segment) + rank; }

char* slot(const danlu_shm& shm, int rank, uint64_t call) {
    char* slots = static_cast<char*>(shm.segment) + shm.ranks * int64_t(sizeof(Line));
    return slots + (rank * 2 + int64_t(call % 2)) * shm.slot_bytes;
}

// True once `rank` has published that call. Spins, since peers of a step come within microseconds; then lets others
// have the core, looks at the clock, and asks whether the peer still lives.
bool comes(danlu_shm& shm, int rank, uint64_t call, Clock::time_point deadline) {
    constexpr int kSpins = 4000;
    const Line& theirs = *line(shm, rank);
    for (int i = 0; i < kSpins; i++) {
        if (theirs.published.load(std::memory_order_acquire) >= call) return true;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    for (Clock::time_point asked{};;) {
        std::this_thread::yield();
        if (theirs.published.load(std::memory_order_acquire) >= call) return true;
        const Clock::time_point now = Clock::now();
        if (now > deadline) return false;
        if (now - asked < std::chrono::milliseconds(1)) continue;
        asked = now;
        // What it published before it died still counts.
        if (shm_peer_is_dead(shm.watched[rank], theirs.process.load(std::memory_order_acquire)))
            return theirs.published.load(std::memory_order_acquire) >= call;
    }
}

float of_bf16(uint16_t half) {
    const uint32_t bits = uint32_t(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

uint16_t to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (value != value) return uint16_t(bits >> 16 | 64);  // rounding must not turn NaN into infinity
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void add_f32(const danlu_shm& shm, uint64_t call, float* out, int64_t count) {
    const auto* a = reinterpret_cast<const float*>(slot(shm, 0, call));
    const auto* b = reinterpret_cast<const float*>(slot(shm, 1 % shm.ranks, call));
    if (shm.ranks == 1) return;
    for (int64_t i = 0; i < count; i++) out[i] = a[i] + b[i];
    for (int r = 2; r < shm.ranks; r++) {
        const auto* more = reinterpret_cast<const float*>(slot(shm, r, call));
        for (int64_t i = 0; i < count; i++) out[i] += more[i];
    }
}

void add_bf16(const danlu_shm& shm, uint64_t call, uint16_t* out, int64_t count) {
    constexpr int64_t kPiece = 256;  // sums that stay in the first-level cache
    float sum[kPiece];
    for (int64_t from = 0; from < count; from += kPiece) {
        const int64_t here = std::min(kPiece, count - from);
        std::fill_n(sum, here, 0.0f);
        for (int r = 0; r < shm.ranks; r++) {
            const auto* theirs = reinterpret_cast<const uint16_t*>(slot(shm, r, call)) + from;
            for (int64_t i = 0; i < here; i++) sum[i] += of_bf16(theirs[i]);
        }
        for (int64_t i = 0; i < here; i++) out[from + i] = to_bf16(sum[i]);
    }
}

int reduce_piece(danlu_shm& shm, int number, char* data, int64_t bytes, Clock::time_point deadline, int* late) {
    const uint64_t call = ++shm.calls;
    std::memcpy(slot(shm, shm.rank, call), data, bytes);
    line(shm, shm.rank)->published.store(call, std::memory_order_release);
    for (int r = 0; r < shm.ranks; r++) {
        if (r == shm.rank) continue;
        if (!comes(shm, r, call, deadline)) {
            *late = r;
            return DANLU_LATE;
        }
        // While it certainly lives: of a process that is gone already nobody could ask.
        if (call == 1) shm_peer_is_dead(shm.watched[r], line(shm, r)->process.load(std::memory_order_acquire));
    }
    if (number == DANLU_F32)
        add_f32(shm, call, reinterpret_cast<float*>(data), bytes / 4);
    else
        add_bf16(shm, call, reinterpret_cast<uint16_t*>(data), bytes / 2);
    return DANLU_OK;
}

}  // namespace

DANLU_API int64_t danlu_shm_bytes(int ranks, int64_t slot_bytes) {
    if (ranks < 1 || ranks > kShmRanks || slot_bytes < 64 || slot_bytes % 64 || slot_bytes > int64_t(1) << 32) return 0;
    return ranks * (int64_t(sizeof(Line)) + 2 * slot_bytes);
}

DANLU_API int danlu_shm_open(danlu_shm* shm, void* segment, int64_t segment_bytes, int64_t slot_bytes, int rank,
                             int ranks) {
    const int64_t needed = danlu_shm_bytes(ranks, slot_bytes);
    if (!needed || segment_bytes < needed || rank < 0 || rank >= ranks || reinterpret_cast<uintptr_t>(segment) % 64)
        return DANLU_BAD_SIZE;
    *shm = {segment, slot_bytes, rank, ranks, 0, {}};
    for (int32_t& each : shm->watched) each = kNotAsked;
    line(*shm, rank)->process.store(shm_own_process(), std::memory_order_release);
    return DANLU_OK;
}

DANLU_API int danlu_shm_allreduce(danlu_shm* shm, int number, void* data, int64_t count, int64_t timeout_ns,
                                  int* late) {
    if (count < 0 || timeout_ns < 0 || (number != DANLU_F32 && number != DANLU_BF16)) return DANLU_BAD_SIZE;
    const Clock::time_point deadline = Clock::now() + std::chrono::nanoseconds(timeout_ns);
    const int64_t bytes = count * (number == DANLU_F32 ? 4 : 2);
    for (int64_t done = 0; done < bytes; done += shm->slot_bytes) {
        const int64_t here = std::min(shm->slot_bytes, bytes - done);
        const int status = reduce_piece(*shm, number, static_cast<char*>(data) + done, here, deadline, late);
        if (status) return status;
    }
    return DANLU_OK;
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
    for (int r = 0; r < shm->ranks; r++) shm_forget(shm->watched[r]);
}
