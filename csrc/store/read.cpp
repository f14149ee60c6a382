// The bytes of a bucket: out of the page cache where they are, past it where they are wanted for the first time.
//
// A cold read through the page cache begins with fresh pages, which on a virtual machine cost as much as the disk: 168 us for a
// bucket that a direct read into memory used before has in 71. What is read once need not stay; what is read again does.
#include <cerrno>

#include <sys/syscall.h>
#include <unistd.h>

#include "store/store.h"

namespace {

#ifndef SYS_cachestat
constexpr long SYS_cachestat = 451;  // of Linux 6.5, the same on every machine
#endif

struct Range {
    uint64_t start, count;
};
struct Cached {
    uint64_t pages, dirty, writeback, evicted, recently_evicted;
};

// Whether all pages of a span are in the page cache; false where the kernel does not say.
bool cached(int fd, Span span) {
    Range range{span.start, span.stop - span.start};
    Cached found{};
    if (syscall(SYS_cachestat, fd, &range, &found, 0)) return false;
    return found.pages >= (span.stop + kPage - 1) / kPage - span.start / kPage;
}

bool read_whole(int fd, uint8_t* out, Span span) {
    for (uint64_t at = span.start; at < span.stop;) {
        const ssize_t got = pread(fd, out + (at - span.start), span.stop - at, off_t(at));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        at += uint64_t(got);
    }
    return true;
}

// One request of whole pages; the last page of a file may end early.
bool read_direct(int fd, uint8_t* out, Span span) {
    const uint64_t start = span.start / kPage * kPage, count = (span.stop - start + kPage - 1) / kPage * kPage;
    const ssize_t got = pread(fd, out, count, off_t(start));
    return got > 0 && start + uint64_t(got) >= span.stop;
}

// Note that a bucket is read; true the first time. After as many bytes as the machine has memory all is forgotten: by then the
// page cache would have dropped them too. Threads may race here; what they can lose is one note.
bool first_time(danlu_table& table, const danlu_pack& pack, uint64_t bucket, uint64_t count) {
    const uint64_t bit = uint64_t(1) << bucket % 64;
    if (__atomic_fetch_or(pack.seen + bucket / 64, bit, __ATOMIC_RELAXED) & bit) return false;
    if (__atomic_sub_fetch(&table.left, int64_t(count), __ATOMIC_RELAXED) < 0) {
        for (int64_t i = 0; i < table.count; i++)
            for (int64_t word = 0; table.packs[i].seen && word < (table.packs[i].buckets + 63) / 64; word++)
                __atomic_store_n(table.packs[i].seen + word, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&table.left, table.memory, __ATOMIC_RELAXED);
    }
    return true;
}

}  // namespace

const uint8_t* store_read(danlu_table& table, const danlu_pack& pack, uint64_t bucket, Span span, uint8_t* out) {
    if (pack.direct >= 0 && first_time(table, pack, bucket, span.stop - span.start) && !cached(pack.fd, span) &&
        read_direct(pack.direct, out, span))
        return out + span.start % kPage;
    return read_whole(pack.fd, out, span) ? out : nullptr;
}
