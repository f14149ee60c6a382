// What this CPU can run.
#pragma once

#include "core/status.h"

// 1 when this machine runs code of that instruction set, 0 when it does not or the name is unknown.
DANLU_API int danlu_cpu_runs(const char* isa);
