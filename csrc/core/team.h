// The thread team of the kernels.
#pragma once

// Call work(arg, part, parts) for every part in [0, parts), part 0 on the calling thread; returns when all have ended.
// A team that is busy with another caller, or cannot start threads, does every part on the calling thread.
void danlu_together(int parts, void (*work)(void* arg, int part, int parts), void* arg);

// The same, but all parts run at the same time, so that they may wait for each other. False, with nothing done, when the
// team is busy or cannot start threads.
bool danlu_at_once(int parts, void (*work)(void* arg, int part, int parts), void* arg);
