// The sums of add.h.
#include "shm/add.h"

#include <algorithm>
#include <cstring>

namespace {

template <typename T>
const T* numbers(const danlu_shm& shm, int rank, int64_t first) {
    return reinterpret_cast<const T*>(slot(shm, rank, shm.calls)) + first;
}

// Whole numbers wrap around as numpy's do.
template <typename T>
T plus(T a, T b) {
    return T(a + b);
}
template <>
int32_t plus(int32_t a, int32_t b) {
    return int32_t(uint32_t(a) + uint32_t(b));
}
template <>
int64_t plus(int64_t a, int64_t b) {
    return int64_t(uint64_t(a) + uint64_t(b));
}

template <typename T>
void add_whole(const danlu_shm& shm, int64_t first, int64_t count, T* __restrict out) {
    const T* a = numbers<T>(shm, 0, first);
    if (shm.ranks == 1) {
        std::copy_n(a, count, out);
        return;
    }
    const T* b = numbers<T>(shm, 1, first);
    for (int64_t i = 0; i < count; i++) out[i] = plus(a[i], b[i]);
    for (int r = 2; r < shm.ranks; r++) {
        const T* more = numbers<T>(shm, r, first);
        for (int64_t i = 0; i < count; i++) out[i] = plus(out[i], more[i]);
    }
}

float as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

uint32_t as_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

struct Bf16 {
    static float widen(uint16_t half) { return as_float(uint32_t(half) << 16); }
    static uint16_t round(float value) {
        const uint32_t bits = as_bits(value);
        if (value != value) return uint16_t(bits >> 16 | 64);  // rounding must not turn NaN into infinity
        return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
};

struct Fp16 {
    static float widen(uint16_t half) {
        const uint32_t sign = uint32_t(half & 0x8000) << 16, rest = half & 0x7fff;
        if (rest >= 0x7c00) return as_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
        // Exponents are moved by a product, which also makes normal numbers of subnormal ones; both steps are exact.
        return as_float(sign | as_bits(as_float(rest << 13) * 0x1p112f));
    }
    static uint16_t round(float value) {
        const uint32_t bits = as_bits(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
        if (rest > 0x7f800000) return uint16_t(sign | 0x7e00);
        if (rest >= 0x477ff000) return uint16_t(sign | 0x7c00);  // half of a unit over the largest, and more
        if (rest < 0x38800000)  // subnormal: the sum leaves the rounded mantissa in the low bits
            return uint16_t(sign | (as_bits(as_float(rest) + 0.5f) - 0x3f000000));
        return uint16_t(sign | ((rest + 0xfff + (rest >> 13 & 1)) - 0x38000000) >> 13);
    }
};

template <typename Half>
void add_half(const danlu_shm& shm, int64_t first, int64_t count, uint16_t* out) {
    constexpr int64_t kPiece = 256;  // sums that stay in the first-level cache
    float sum[kPiece];
    for (int64_t from = 0; from < count; from += kPiece) {
        const int64_t here = std::min(kPiece, count - from);
        std::fill_n(sum, here, 0.0f);
        for (int r = 0; r < shm.ranks; r++) {
            const uint16_t* theirs = numbers<uint16_t>(shm, r, first + from);
            for (int64_t i = 0; i < here; i++) sum[i] += Half::widen(theirs[i]);
        }
        for (int64_t i = 0; i < here; i++) out[from + i] = Half::round(sum[i]);
    }
}

}  // namespace

int64_t number_bytes(int number) {
    switch (number) {
        case DANLU_U8: return 1;
        case DANLU_BF16: case DANLU_F16: return 2;
        case DANLU_F32: case DANLU_I32: return 4;
        case DANLU_F64: case DANLU_I64: return 8;
        default: return 0;
    }
}

bool add_slots(const danlu_shm& shm, int number, int64_t first, int64_t count, void* out) {
    switch (number) {
        case DANLU_F32: add_whole(shm, first, count, static_cast<float*>(out)); return true;
        case DANLU_F64: add_whole(shm, first, count, static_cast<double*>(out)); return true;
        case DANLU_I32: add_whole(shm, first, count, static_cast<int32_t*>(out)); return true;
        case DANLU_I64: add_whole(shm, first, count, static_cast<int64_t*>(out)); return true;
        case DANLU_U8: add_whole(shm, first, count, static_cast<uint8_t*>(out)); return true;
        case DANLU_BF16: add_half<Bf16>(shm, first, count, static_cast<uint16_t*>(out)); return true;
        case DANLU_F16: add_half<Fp16>(shm, first, count, static_cast<uint16_t*>(out)); return true;
        default: return false;
    }
}
