// What this CPU can run, asked of the CPU and the operating system (gcc and clang check that the OS saves the registers).
#include <cstring>

#include "core/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vnni");
}

// Compilers older than these instructions do not know their names, so the CPU is asked itself (CPUID 7.1 EAX, 7.0 EDX).
bool has_bf16() {
    unsigned a, b, c, d;
    return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

// AMX also needs the system's leave: 8 KiB of registers are saved only for processes that asked (Linux 5.16). The leave
// is the whole process's, threads included, and lasts.
bool has_amx() {
    constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
    unsigned a, b, c, d;
    if (!has_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kBf16) == 0 || !(d & kTile) || !(d & kInt8))
        return false;
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr long kAskForState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
#else
    return false;
#endif
}

}  // namespace
#endif

DANLU_API int danlu_abi() { return 1; }

DANLU_API int danlu_cpu_runs(const char* isa) {
    if (!std::strcmp(isa, "ref")) return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!std::strcmp(isa, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!std::strcmp(isa, "avx512")) return has_avx512();
    if (!std::strcmp(isa, "avx512bf16")) return has_bf16();
    if (!std::strcmp(isa, "amx")) {
        static const bool amx = has_amx();
        return amx;
    }
#endif
    return 0;
}
