// Levels as small unsigned integers.
#pragma once

#include <cstdint>

namespace q4 {

// level[i] is about (code[i] - zero) / scale, with every code in [0, top].
struct Fitted {
    uint8_t code[16];
    float scale, zero;
};

// The scale and the zero, both free, that round 16 levels best in the mean; remembered per thread.
const Fitted& fit(const float* levels, int top);

}  // namespace q4
