// CRC-32 (the polynomial of zlib and Ethernet), 64 or 128 bytes at a time where the CPU multiplies without carries.
//
// Method: V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel, 2009): 16
// bytes are replaced by a remainder that stands 64 (or 16) bytes further on. The last 16 go through the table.
#include "store/store.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr uint32_t kPolynomial = 0xEDB88320;  // bits reversed: the first bit of a byte is its lowest

struct Tables {
    uint32_t of[8][256];
};

constexpr Tables tables() {
    Tables t{};
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t x = i;
        for (int bit = 0; bit < 8; bit++) x = x & 1 ? x >> 1 ^ kPolynomial : x >> 1;
        t.of[0][i] = x;
    }
    for (int k = 1; k < 8; k++)
        for (int i = 0; i < 256; i++) t.of[k][i] = t.of[k - 1][i] >> 8 ^ t.of[0][t.of[k - 1][i] & 255];
    return t;
}

constexpr Tables kTables = tables();

uint32_t by_table(uint32_t crc, const uint8_t* data, int64_t count) {
    for (; count >= 8; data += 8, count -= 8) {
        uint64_t word;
        std::memcpy(&word, data, 8);
        word ^= crc;
        crc = 0;
        for (int k = 0; k < 8; k++) crc ^= kTables.of[7 - k][word >> 8 * k & 255];
    }
    for (; count > 0; data++, count--) crc = crc >> 8 ^ kTables.of[0][(crc ^ *data) & 255];
    return crc;
}

#if defined(__x86_64__)
// x^n modulo the polynomial, bits reversed, as the carry-less product wants it (one bit up).
constexpr uint64_t power(int n) {
    uint32_t x = 0x80000000;
    for (int i = 0; i < n; i++) x = x & 1 ? x >> 1 ^ kPolynomial : x >> 1;
    return uint64_t(x) << 1;
}

#define CLMUL __attribute__((target("pclmul,sse2")))

CLMUL inline __m128i moved(__m128i x, __m128i by) {
    return _mm_xor_si128(_mm_clmulepi64_si128(x, by, 0x00), _mm_clmulepi64_si128(x, by, 0x11));
}

// What stands in four remainders, one after the other, and in the `count` bytes after them.
CLMUL uint32_t folded(__m128i* x, const uint8_t* data, int64_t count) {
    const auto* p = reinterpret_cast<const __m128i*>(data);
    const __m128i far = _mm_set_epi64x(power(512 - 32), power(512 + 32)), near = _mm_set_epi64x(power(96), power(160));
    for (; count >= 64; count -= 64)
        for (int k = 0; k < 4; k++) x[k] = _mm_xor_si128(moved(x[k], far), _mm_loadu_si128(p++));
    for (int k = 1; k < 4; k++) x[k] = _mm_xor_si128(moved(x[k - 1], near), x[k]);
    for (; count >= 16; count -= 16) x[3] = _mm_xor_si128(moved(x[3], near), _mm_loadu_si128(p++));
    uint8_t rest[16];
    std::memcpy(rest, &x[3], 16);
    return by_table(by_table(0, rest, 16), reinterpret_cast<const uint8_t*>(p), count);
}

CLMUL uint32_t by_products(uint32_t crc, const uint8_t* data, int64_t count) {
    const auto* p = reinterpret_cast<const __m128i*>(data);
    __m128i x[4];
    for (int k = 0; k < 4; k++) x[k] = _mm_loadu_si128(p + k);
    x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128(int(crc)));
    return folded(x, data + 64, count - 64);
}

// The same with two remainders in a register.
__attribute__((target("vpclmulqdq,avx2,pclmul"))) uint32_t by_pairs(uint32_t crc, const uint8_t* data, int64_t count) {
    const auto* p = reinterpret_cast<const __m256i*>(data);
    const __m256i far = _mm256_broadcastsi128_si256(_mm_set_epi64x(power(1024 - 32), power(1024 + 32)));
    __m256i y[4];
    for (int k = 0; k < 4; k++) y[k] = _mm256_loadu_si256(p++);
    y[0] = _mm256_xor_si256(y[0], _mm256_zextsi128_si256(_mm_cvtsi32_si128(int(crc))));
    for (count -= 128; count >= 128; count -= 128)
        for (int k = 0; k < 4; k++) {
            const __m256i by = _mm256_xor_si256(_mm256_clmulepi64_epi128(y[k], far, 0x00), _mm256_clmulepi64_epi128(y[k], far, 0x11));
            y[k] = _mm256_xor_si256(by, _mm256_loadu_si256(p++));
        }
    __m128i x[8];
    std::memcpy(x, y, sizeof x);
    const __m128i half = _mm_set_epi64x(power(512 - 32), power(512 + 32));
    for (int k = 0; k < 4; k++) x[4 + k] = _mm_xor_si128(moved(x[k], half), x[4 + k]);
    return folded(x + 4, reinterpret_cast<const uint8_t*>(p), count);
}
#endif

}  // namespace

uint32_t store_crc(const uint8_t* data, int64_t count) {
#if defined(__x86_64__)
    if (count >= 256 && __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("avx2")) return ~by_pairs(~0u, data, count);
    if (count >= 64 && __builtin_cpu_supports("pclmul")) return ~by_products(~0u, data, count);
#endif
    return ~by_table(~0u, data, count);
}

DANLU_API uint32_t danlu_store_crc(const uint8_t* data, int64_t count) { return store_crc(data, count); }
