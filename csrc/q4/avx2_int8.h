// What the two int8 files share: the prepared input, and what a block of integer sums is worth.
#pragma once

#include "q4/avx2.h"

#if defined(__x86_64__)
#include "q4/fit.h"

namespace q4 {

constexpr int kTop = 127;                         // levels
constexpr float kTopInput = 127, kTopFour = 258;  // one input; four that meet in one lane: 258 * 127 < 2^15
constexpr float kNoLimit = 1e30f;                 // for a dot product that does not saturate
constexpr int64_t kFew = 4;                       // tokens that multiply without a panel of unpacked weights

struct Unit {
    float step;  // what one unit of an input is worth; NaN for a block that is not finite
    float sum;   // of the inputs of the block, in units
};

// [blocks][tokens][64] signed bytes, then [blocks][tokens] units.
struct Ready8 {
    int8_t* numbers;
    Unit* units;
    int64_t tokens;

    Ready8(const void* at, int64_t tokens, int64_t cols)
        : numbers(static_cast<int8_t*>(const_cast<void*>(at))),
          units(reinterpret_cast<Unit*>(numbers + q4_blocks(cols) * tokens * kQ4Block)),
          tokens(tokens) {}

    int8_t* block(int64_t b, int64_t t) const { return numbers + (b * tokens + t) * kQ4Block; }
    Unit& unit(int64_t b, int64_t t) const { return units[b * tokens + t]; }
};

// Total of 8 rows with one more block; `sum` is that of code * input, and the codes' zero takes its share off.
AVX2 inline __m256 add_block(__m256 total, __m256i sum, __m256 absmax, const Unit& unit, float zero) {
    const __m256 dot = _mm256_sub_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(zero * unit.sum));
    return _mm256_fmadd_ps(dot, _mm256_mul_ps(absmax, _mm256_set1_ps(unit.step)), total);
}

// top_four: what four magnitudes that meet in one lane may sum to.
void prepare_int8(const float* x, int64_t b, int64_t t, const Ready8& ready, float top_four = kTopFour);
void multiply_int8(const Work& work);
void multiply_tiles8(const Work& work, const Ready8& in);

}  // namespace q4
#endif
