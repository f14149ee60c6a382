// Whether the process behind a rank still lives.
#pragma once

#include <cstdint>

constexpr int32_t kNotAsked = -2, kUnknown = -1;

int64_t shm_own_process();
// True when that process has ended, though nobody may have waited for it yet. `watched` remembers how to ask; process 0
// has not opened the segment yet. Where the system cannot say, false: the time limit decides.
bool shm_peer_is_dead(int32_t& watched, int64_t process);
void shm_forget(int32_t& watched);
