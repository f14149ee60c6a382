// The AVX2 files of this folder, one per precision. Functions carry the target as an attribute: a file-wide flag would
// put AVX2 into inline functions of the standard library, which the linker may then choose for CPUs without it.
//
// A prepared input is [blocks][tokens][64] numbers, then [blocks][tokens] of what one unit is worth, divided by what
// one unit of a level is worth; NaN for a block that is not finite, so that its sums are NaN too.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include "q4/files.h"

#define AVX2 __attribute__((target("avx2,fma")))

// Finish this accumulator before the next one is touched. gcc 12 else moves all products of a tile before all sums and
// spills most of the registers: int16 over 64 tokens went from 84 to 120 GOP/s with this, fp32 from 69 to 75.
// Volatile, so that what FETCH brings stays in its place between the sums.
#define KEEP(v) __asm__ volatile("" : "+x"(v))

// Bring a cache line here, between the sums it stands between: gcc moves a plain prefetch to the front of the block,
// where they meet in a burst that the memory does not take. Not into the caches behind the first: a weight is read once
// a token.
#define FETCH(at) __asm__ volatile("prefetchnta %0" ::"m"(*(const char*)(at)))

namespace q4 {

// Where the parts of a prepared input are.
template <class Number>
struct Ready {
    Number* numbers;
    float* step;  // not in fp32
    int64_t tokens;

    Ready(const void* at, int64_t tokens, int64_t cols)
        : numbers(static_cast<Number*>(const_cast<void*>(at))),
          step(reinterpret_cast<float*>(numbers + q4_blocks(cols) * tokens * kQ4Block)),
          tokens(tokens) {}

    Number* block(int64_t b, int64_t t) const { return numbers + (b * tokens + t) * kQ4Block; }
    float& unit(int64_t b, int64_t t) const { return step[b * tokens + t]; }
};

// Rows of groups [from, to) times all tokens.
struct Work {
    const danlu_q4* w;
    const void* ready;
    int64_t tokens, from, to;
    const float* bias;
    float* out;
    int64_t out_stride;
    float* scratch;
};

// The largest magnitude of 64 numbers; NaN when one is not finite.
float largest(const float* x);
// absmax as in absmax.cpp, the same bits, faster.
void absmax(const danlu_q4& w, int64_t group, int64_t from, int64_t count, float* out);
// Write the sums of 16 rows for one token, bias added, without the rows that are padding.
void store16(const Work& work, int64_t g, int64_t t, __m256 low, __m256 high);

void prepare_int16(const float* x, int64_t b, int64_t t, const Ready<int16_t>& ready);
void multiply_int16(const Work& work);

void multiply_fp32(const Work& work);

}  // namespace q4
#endif
