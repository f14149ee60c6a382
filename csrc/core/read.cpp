// Reading memory and nothing else: the roof beside which every kernel that streams weights is measured.
#include <cstdint>
#include <cstring>

#include "core/cpu.h"
#include "core/status.h"
#include "core/team.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t kLine = 64, kMostStreams = 8;

struct Read {
    const uint8_t* data;
    int64_t bytes, streams, ahead;
    uint64_t* found;  // one per part
};

#if defined(__x86_64__)
__attribute__((target("avx2"))) uint64_t read_avx2(const uint8_t* data, int64_t bytes, int64_t streams, int64_t ahead) {
    const int64_t each = bytes / streams / (2 * kLine) * 2 * kLine;
    __m256i sum[4] = {};
    for (int64_t i = 0; i < each; i += 2 * kLine)
        for (int64_t s = 0; s < streams; s++) {
            const uint8_t* at = data + s * each + i;
            if (ahead)
                _mm_prefetch((const char*)at + ahead, _MM_HINT_T0),
                    _mm_prefetch((const char*)at + ahead + kLine, _MM_HINT_T0);
            for (int j = 0; j < 4; j++)
                sum[j] = _mm256_add_epi64(sum[j], _mm256_loadu_si256((const __m256i*)(at + 32 * j)));
        }
    uint64_t lanes[4];
    _mm256_storeu_si256((__m256i*)lanes,
                        _mm256_add_epi64(_mm256_add_epi64(sum[0], sum[1]), _mm256_add_epi64(sum[2], sum[3])));
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}
#endif

uint64_t read_plain(const uint8_t* data, int64_t bytes) {
    uint64_t sum = 0;
    for (int64_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t word;
        std::memcpy(&word, data + i, 8);
        sum += word;
    }
    return sum;
}

void read_part(void* arg, int part, int parts) {
    const Read& r = *static_cast<const Read*>(arg);
    const int64_t lines = r.bytes / kLine, from = lines * part / parts * kLine, to = lines * (part + 1) / parts * kLine;
#if defined(__x86_64__)
    if (danlu_cpu_runs("avx2")) {
        r.found[part] = read_avx2(r.data + from, to - from, r.streams, r.ahead);
        return;
    }
#endif
    r.found[part] = read_plain(r.data + from, to - from);
}

}  // namespace

// Read bytes once on `threads` threads, each in so many places at once, fetching `ahead` bytes ahead (0: not). *sum
// depends on every byte, so that nothing is left out.
DANLU_API int danlu_read(const uint8_t* data, int64_t bytes, int64_t streams, int64_t ahead, int threads,
                         uint64_t* sum) {
    constexpr int kMostThreads = 1024;
    if (bytes < 0 || streams < 1 || streams > kMostStreams || ahead < 0 || threads < 1 || threads > kMostThreads)
        return DANLU_BAD_SIZE;
    uint64_t found[kMostThreads] = {};
    Read read{data, bytes, streams, ahead, found};
    danlu_together(threads, read_part, &read);
    *sum = 0;
    for (int i = 0; i < threads; i++) *sum += found[i];
    return DANLU_OK;
}
