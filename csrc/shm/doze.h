// Sleep until another process says that a counter has moved on.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

// Returns when `counter` is no longer `seen`, after a wake, or after `most`; early returns are allowed. Where the
// system cannot wait for memory, other threads get the core once.
void shm_doze(const std::atomic<uint64_t>& counter, uint64_t seen, std::chrono::nanoseconds most);
// Wake all that doze on a counter.
void shm_wake(const std::atomic<uint64_t>& counter);
