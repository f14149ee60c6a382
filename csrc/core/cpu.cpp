// What this CPU can run, asked of the CPU and the operating system (gcc and clang check that the OS saves the registers).
#include <cstring>

#include "core/cpu.h"

DANLU_API int danlu_abi() { return 1; }

DANLU_API int danlu_cpu_runs(const char* isa) {
    if (!std::strcmp(isa, "ref")) return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!std::strcmp(isa, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!std::strcmp(isa, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
               __builtin_cpu_supports("avx512vnni");
#endif
    return 0;
}
