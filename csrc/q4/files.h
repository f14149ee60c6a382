// What the files of this folder share: one table of kernels per instruction set.
#pragma once

#include "q4/q4.h"

// Whether the compiler knows AVX-512 BF16, and its assembler AMX.
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define DANLU_KNOWS_AMX
#endif

extern const danlu_q4_kernels kQ4Ref;
#if defined(__x86_64__)
extern const danlu_q4_kernels kQ4Avx2;
extern const danlu_q4_kernels kQ4Avx512;
extern const danlu_q4_kernels kQ4Avx512Bf16;
extern const danlu_q4_kernels kQ4Amx;
#endif

// Row `row` as floats; absmax is that of its whole group, [blocks][16].
void q4_row(const danlu_q4& w, int64_t row, const float* absmax, float* out);
