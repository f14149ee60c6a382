// Any number of tokens in fp32, no rounding but that of the sums; the walk over panels is avx2_panel.h.
//
// Four byte shuffles look up the four bytes of a level; interleaved twice they are floats, 4 columns of one row in 128
// bits.
#include <cstring>

#include "q4/avx2_panel.h"

#if defined(__x86_64__)
namespace q4 {

namespace {

struct Fp32 {
    using Number = float;
    static constexpr int64_t kPanel = kQ4Block;
    static constexpr int64_t kTile = 3;    // tokens: 4 accumulators each
    static constexpr int64_t kChunk = 32;  // 8 KiB of inputs beside the panel

    struct Tables {
        __m256i byte[4];
    };

    AVX2 static inline Tables tables(const float* levels) {
        alignas(16) uint8_t byte[4][16];
        for (int i = 0; i < 16; i++) {
            uint32_t bits;
            std::memcpy(&bits, levels + i, 4);
            for (int j = 0; j < 4; j++) byte[j][i] = uint8_t(bits >> 8 * j);
        }
        Tables made;
        for (int j = 0; j < 4; j++) made.byte[j] = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)byte[j]));
        return made;
    }

    // 8 rows of one block: panel[4 i + r] has columns 4 i .. 4 i + 3 of row r, then of row 4 + r.
    AVX2 static inline void unpack(const uint8_t* codes, const Tables& levels, __m256i* panel) {
        const __m256i nibble = _mm256_set1_epi8(15);
        for (int v = 0; v < 8; v++, codes += 64) {
            _mm_prefetch((const char*)codes + 2 * kQ4Bytes, _MM_HINT_T0);
            const __m256i bytes = _mm256_loadu_si256((const __m256i*)codes);
            const __m256i part[2] = {_mm256_and_si256(bytes, nibble),
                                     _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble)};
            for (int i = 0; i < 2; i++, panel += 4) {
                __m256i byte[4];
                for (int j = 0; j < 4; j++) byte[j] = _mm256_shuffle_epi8(levels.byte[j], part[i]);
                const __m256i low0 = _mm256_unpacklo_epi8(byte[0], byte[1]),
                              low1 = _mm256_unpacklo_epi8(byte[2], byte[3]);
                const __m256i high0 = _mm256_unpackhi_epi8(byte[0], byte[1]),
                              high1 = _mm256_unpackhi_epi8(byte[2], byte[3]);
                _mm256_store_si256(panel, _mm256_unpacklo_epi16(low0, low1));
                _mm256_store_si256(panel + 1, _mm256_unpackhi_epi16(low0, low1));
                _mm256_store_si256(panel + 2, _mm256_unpacklo_epi16(high0, high1));
                _mm256_store_si256(panel + 3, _mm256_unpackhi_epi16(high0, high1));
            }
        }
    }

    // Add one block of 8 rows times T tokens to total[t][16].
    template <int T>
    AVX2 static inline void tile(const __m256i* panel, const Ready<float>& in, int64_t b, int64_t t, __m256 absmax,
                                 float* total) {
        const float* x = in.block(b, t);
        const auto* row = (const float*)panel;
        __m256 sum[T][4];
#pragma GCC unroll 3
        for (int i = 0; i < T; i++) sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = _mm256_setzero_ps();
        for (int k = 0; k < kQ4Block; k += 4, row += 32, x += 4) {
#pragma GCC unroll 3
            for (int i = 0; i < T; i++) {
                const __m256 four = _mm256_broadcast_ps((const __m128*)(x + i * kQ4Block));
#pragma GCC unroll 4
                for (int r = 0; r < 4; r++) {
                    sum[i][r] = _mm256_fmadd_ps(_mm256_load_ps(row + 8 * r), four, sum[i][r]);
                    KEEP(sum[i][r]);
                }
            }
        }
#pragma GCC unroll 3
        for (int i = 0; i < T; i++) {
            const __m256 first = _mm256_hadd_ps(sum[i][0], sum[i][1]), second = _mm256_hadd_ps(sum[i][2], sum[i][3]);
            const __m256 dot = _mm256_hadd_ps(first, second);
            _mm256_store_ps(total + i * kQ4Rows, _mm256_fmadd_ps(dot, absmax, _mm256_load_ps(total + i * kQ4Rows)));
        }
    }
};

}  // namespace

AVX2 void multiply_fp32(const Work& work) { multiply_panels<Fp32>(work); }

}  // namespace q4
#endif
