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

// Whole vectors: spreading one number from memory costs a shuffle of every comparison.
struct Try {
    int16_t edge[15][16], rise[15][16], least[16];
};

// The levels of one try, against weights whose largest is kTopWeight.
Try try_of(const q4::Book& book, float multiple) {
    const auto whole = [](float x) { return int16_t(std::lrintf(std::min(32767.0f, std::max(-32768.0f, x)))); };
    Try made;
    std::fill_n(made.least, 16, whole(book.level[0] * kTopLevel));
    for (int e = 0; e < 15; e++) {
        const int rise = whole(book.level[e + 1] * kTopLevel) - whole(book.level[e] * kTopLevel);
        std::fill_n(made.edge[e], 16, whole(book.edge[e] * multiple * kTopWeight));
        std::fill_n(made.rise[e], 16, int16_t(rise));
    }
    return made;
}

AVX2 inline __m256i sixteen(const int16_t* at) { return _mm256_loadu_si256((const __m256i*)at); }

AVX2 inline float sum8(__m256i v) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return float(_mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1))));
}

// (sum x l)^2 / sum l^2 of 64 weights rounded by one try.
AVX2 inline float gain_of(const __m256i x[4], const Try& with) {
    __m256i level[4];
    for (int i = 0; i < 4; i++) level[i] = sixteen(with.least);
#pragma GCC unroll 15
    for (int e = 0; e < 15; e++) {
        const __m256i edge = sixteen(with.edge[e]), rise = sixteen(with.rise[e]);
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

AVX2 inline float sum8(__m256 v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

AVX2 inline float most8(__m256 v) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

struct Avx2 {
    const q4::Quantize& q;
    q4::Book book;
    std::vector<Try> tries;

    AVX2 float largest(const float* x) const {
        __m256 high = _mm256_loadu_ps(x), low = high;
        for (int i = 8; i < kQ4Block; i += 8) {
            high = _mm256_max_ps(high, _mm256_loadu_ps(x + i));
            low = _mm256_min_ps(low, _mm256_loadu_ps(x + i));
        }
        const float most = most8(high), least = -most8(_mm256_sub_ps(_mm256_setzero_ps(), low));
        return most >= -least ? most : q.with_sign ? least : -least;
    }

    AVX2 size_t best_try(const float* weight, float most) const {
        const __m256 unit = _mm256_set1_ps(kTopWeight / most);
        __m256i x[4];
        for (int i = 0; i < 4; i++)  // the order within a vector does not matter
            x[i] = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(weight + 16 * i), unit)),
                                      _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(weight + 16 * i + 8), unit)));
        size_t best = 0;
        float most_gain = -1;
        for (size_t n = 0; n < tries.size(); n++) {
            const float gain = gain_of(x, tries[n]);
            if (gain > most_gain) most_gain = gain, best = n;
        }
        return best;
    }

    // The best scale of a block rounded by one try.
    AVX2 float refit(const float* x, float scale) const {
        const __m256 inverse = _mm256_set1_ps(1 / scale);
        __m256 along = _mm256_setzero_ps(), length = along;
        for (int i = 0; i < kQ4Block; i += 8) {
            const __m256 weight = _mm256_loadu_ps(x + i), value = _mm256_mul_ps(weight, inverse);
            __m256 level = _mm256_set1_ps(book.level[0]);
            for (int e = 0; e < 15; e++) {
                const __m256 above = _mm256_cmp_ps(value, _mm256_set1_ps(book.edge[e]), _CMP_GT_OQ);
                level = _mm256_add_ps(level, _mm256_and_ps(above, _mm256_set1_ps(book.rise[e])));
            }
            along = _mm256_fmadd_ps(weight, level, along);
            length = _mm256_fmadd_ps(level, level, length);
        }
        const float squares = sum8(length);
        return squares > 0 ? sum8(along) / squares : scale;
    }

    AVX2 float scale_of(const float* x) const {
        const float most = largest(x);
        return most == 0 || tries.empty() ? most : refit(x, most * q.tries[best_try(x, most)]);
    }

    // The lane of one row: 4 bytes of every 64.
    AVX2 void encode(const float* x, float scale, uint8_t* to) const {
        const __m256 inverse = _mm256_set1_ps(scale != 0 ? 1 / scale : 0);
        for (int v = 0; v < 8; v++, to += 64) {
            const __m256 value = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * v), inverse);
            __m256i code = _mm256_setzero_si256();
            for (int e = 0; e < 15; e++)
                code = _mm256_sub_epi32(
                    code, _mm256_castps_si256(_mm256_cmp_ps(value, _mm256_set1_ps(book.edge[e]), _CMP_GT_OQ)));
            const __m128i low = _mm256_castsi256_si128(code), high = _mm256_extracti128_si256(code, 1);
            const __m128i words = _mm_or_si128(low, _mm_slli_epi32(high, 4));
            const __m128i bytes = _mm_shuffle_epi8(words, _mm_set1_epi32(0x0c080400));
            const int32_t four = _mm_cvtsi128_si32(bytes);
            std::memcpy(to, &four, 4);
        }
    }
};

AVX2 void part_of_matrix(void* arg, int part, int parts) {
    const auto& q = *static_cast<const q4::Quantize*>(arg);
    Avx2 isa{q, q4::Book(q.levels), {}};
    for (int64_t n = 0; n < q.tried; n++) isa.tries.push_back(try_of(isa.book, q.tries[n]));
    q4::quantize_groups(isa, q, part, parts);
}

}  // namespace

DANLU_QUANTIZE_Q4(avx2, part_of_matrix)
#endif
