// The thread team of the kernels.
#pragma once

// Call work(arg, part, parts) for every part in [0, parts), part 0 on the calling thread; returns when all have ended.
// A team that is busy with another caller, or cannot start threads, does every part on the calling thread.
void danlu_together(int parts, void (*work)(void* arg, int part, int parts), void* arg);
