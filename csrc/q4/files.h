// What the files of this folder share: one table of kernels per instruction set.
#pragma once

#include "q4/q4.h"

extern const danlu_q4_kernels kQ4Ref;
#if defined(__x86_64__)
extern const danlu_q4_kernels kQ4Avx2;
extern const danlu_q4_kernels kQ4Avx512;
#endif

// Row `row` as floats; absmax is that of its whole group, [blocks][16].
void q4_row(const danlu_q4& w, int64_t row, const float* absmax, float* out);
