// Quantizing with AVX2: the tries are compared in 16-bit integers, 16 weights at a time. Two tries that differ by less
// than those can tell may be taken for each other; what follows the choice is the plain fp32 of quantize.h.
#include "q4/quantize.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <vector>

#define AVX2 __attribute__((target("avx2,fma")))

namespace {

// 64 products of both stay below 2^31.
constexpr float kTopWeight = 16384, kTopLevel = 1023;

struct Try {
    int16_t edge[15], rise[15];
    int16_t least;
};

// The levels of one try, against weights whose largest is kTopWeight.
Try try_of(const q4::Book& book, float multiple) {
    Try made;
    made.least = int16_t(std::lrintf(book.level[0] * kTopLevel));
    for (int e = 0; e < 15; e++) {
        const float edge = book.edge[e] * multiple * kTopWeight;
        made.edge[e] = int16_t(std::lrintf(std::min(32767.0f, std::max(-32768.0f, edge))));
        made.rise[e] = int16_t(std::lrintf(book.level[e + 1] * kTopLevel) - std::lrintf(book.level[e] * kTopLevel));
    }
    return made;
}

AVX2 inline float sum8(__m256i v) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return float(_mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1))));
}

// (sum x l)^2 / sum l^2 of 64 weights rounded by one try.
AVX2 inline float gain_of(const __m256i x[4], const Try& with) {
    __m256i level[4];
    for (int i = 0; i < 4; i++) level[i] = _mm256_set1_epi16(with.least);
#pragma GCC unroll 15
    for (int e = 0; e < 15; e++) {
        const __m256i edge = _mm256_set1_epi16(with.edge[e]), rise = _mm256_set1_epi16(with.rise[e]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            level[i] = _mm256_add_epi16(level[i], _mm256_and_si256(_mm256_cmpgt_epi16(x[i], edge), rise));
    }
    __m256i along = _mm256_setzero_si256(), length = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        along = _mm256_add_epi32(along, _mm256_madd_epi16(x[i], level[i]));
        length = _mm256_add_epi32(length, _mm256_madd_epi16(level[i], level[i]));
    }
    const float sum = sum8(along), squares = sum8(length);
    return squares > 0 ? sum * sum / squares : -1;
}

AVX2 int64_t best_of(const std::vector<Try>& tries, const float* weight, float most) {
    const __m256 unit = _mm256_set1_ps(kTopWeight / most);
    __m256i x[4];
    for (int i = 0; i < 4; i++)  // the order within a vector does not matter
        x[i] = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(weight + 16 * i), unit)),
                                  _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(weight + 16 * i + 8), unit)));
    int64_t best = 0;
    float most_gain = -1;
    for (size_t n = 0; n < tries.size(); n++) {
        const float gain = gain_of(x, tries[n]);
        if (gain > most_gain) most_gain = gain, best = int64_t(n);
    }
    return best;
}

AVX2 void part_of_matrix(void* arg, int part, int parts) {
    const auto& q = *static_cast<const q4::Quantize*>(arg);
    const q4::Book book(q.levels);
    std::vector<Try> tries;
    for (int64_t n = 0; n < q.tried; n++) tries.push_back(try_of(book, q.tries[n]));
    q4::quantize_groups(q, book, part, parts, [&](const float* x, float most) { return best_of(tries, x, most); });
}

}  // namespace

DANLU_QUANTIZE_Q4(avx2, part_of_matrix)
#endif
