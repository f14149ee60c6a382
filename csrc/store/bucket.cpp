// Buckets to records and back, a few megabytes at a time: what scans, merges and writers do.
#include <cstring>

#include "store/store.h"

// How many records buckets say they have, damaged ones too: the room that their records need. starts, stops as below.
DANLU_API int64_t danlu_store_count(const uint8_t* data, int64_t data_count, const int64_t* starts, const int64_t* stops,
                                    int64_t buckets) {
    int64_t n = 0;
    for (int64_t b = 0; b < buckets; b++) {
        const int64_t size = stops[b] - starts[b];
        if (starts[b] < 0 || stops[b] > data_count || size < kBucketHead) continue;
        uint32_t records;
        std::memcpy(&records, data + starts[b] + 4, 4);
        if (records <= size / kHead) n += records;
    }
    return n;
}

// Find the records of `buckets` buckets, which start and stop in in->data. Returns the number of records, or -1 - b where bucket b
// is damaged, or -1 - buckets where in->count is too little room.
DANLU_API int64_t danlu_store_parse(danlu_batch* in, const int64_t* starts, const int64_t* stops, int64_t buckets) {
    int64_t n = 0;
    for (int64_t b = 0; b < buckets; b++) {
        const int64_t stop = stops[b];
        int64_t head = starts[b];
        if (stop == head) continue;
        if (head < 0 || stop > in->data_count || stop - head < kBucketHead) return -1 - b;
        uint32_t crc, records;
        std::memcpy(&crc, in->data + head, 4);
        std::memcpy(&records, in->data + head + 4, 4);
        if (store_crc(in->data + head + 4, stop - head - 4) != crc) return -1 - b;
        head += kBucketHead;
        int64_t at = head + int64_t(records) * kHead;
        if (at > stop) return -1 - b;
        if (n + records > in->count) return -1 - buckets;
        for (uint32_t i = 0; i < records; i++, n++, head += kHead) {
            std::memcpy(in->hash + n, in->data + head, 8);
            std::memcpy(in->key_count + n, in->data + head + 8, 4);
            std::memcpy(in->value_count + n, in->data + head + 12, 4);
            in->key_at[n] = at;
            in->value_at[n] = at += in->key_count[n];
            at += in->value_count[n] == kRemoved ? 0 : in->value_count[n];
            if (at > stop) return -1 - b;
        }
    }
    return n;
}

// Lay records, which stand in their final order, into the buckets first .. first + buckets of a pack of `of` buckets.
// edges (buckets + 1): where each bucket starts in out. Returns the bytes written, -1 where a record is of no such bucket.
DANLU_API int64_t danlu_store_lay(const danlu_batch* in, int64_t first, int64_t buckets, int64_t of, int bits, uint8_t* out,
                                  int64_t room, int64_t* edges) {
    int64_t at = 0, n = 0;
    for (int64_t b = 0; b < buckets; b++) {
        edges[b] = at;
        int64_t stop = n;
        while (stop < in->count && int64_t(store_bucket(in->hash[stop], bits, of)) == first + b) stop++;
        if (stop == n) continue;
        uint8_t* head = out + at + kBucketHead;
        uint8_t* body = head + (stop - n) * kHead;
        if (body - out > room) return -1;
        const uint32_t records = uint32_t(stop - n);
        std::memcpy(out + at + 4, &records, 4);
        for (; n < stop; n++, head += kHead) {
            const int64_t keys = in->key_count[n], values = in->value_count[n] == kRemoved ? 0 : in->value_count[n];
            if (body + keys + values > out + room) return -1;
            std::memcpy(head, in->hash + n, 8);
            std::memcpy(head + 8, in->key_count + n, 4);
            std::memcpy(head + 12, in->value_count + n, 4);
            std::memcpy(body, in->data + in->key_at[n], keys);
            std::memcpy(body + keys, in->data + in->value_at[n], values);
            body += keys + values;
        }
        const uint32_t crc = store_crc(out + at + 4, body - (out + at + 4));
        std::memcpy(out + at, &crc, 4);
        at = body - out;
    }
    edges[buckets] = at;
    return n == in->count ? at : -1;
}
