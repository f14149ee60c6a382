// What every exported function returns, and the version of the C ABI (src/danlu/native.py holds the other end).
#pragma once

#define DANLU_API extern "C" __attribute__((visibility("default")))

enum danlu_status : int { DANLU_OK = 0, DANLU_BAD_SIZE = 1, DANLU_NO_MEMORY = 2, DANLU_LATE = 3, DANLU_GONE = 4, DANLU_OTHER = 5 };
