// Futexes of the kind that processes share; they look at the lower half of a counter.
#include "shm/doze.h"

#include <climits>
#include <thread>

#if defined(__linux__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

void shm_doze(const std::atomic<uint64_t>& counter, uint64_t seen, std::chrono::nanoseconds most) {
    const timespec limit{time_t(most.count() / 1'000'000'000), long(most.count() % 1'000'000'000)};
    syscall(SYS_futex, &counter, FUTEX_WAIT, uint32_t(seen), &limit, nullptr, 0);
}

void shm_wake(const std::atomic<uint64_t>& counter) {
    syscall(SYS_futex, &counter, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}
#else
void shm_doze(const std::atomic<uint64_t>&, uint64_t, std::chrono::nanoseconds) { std::this_thread::yield(); }
void shm_wake(const std::atomic<uint64_t>&) {}
#endif
