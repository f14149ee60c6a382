// Byte-level BPE: text to token ids, the same as the tokenizers package's.
//
// src/danlu/data/encoder.py owns the handle and says when it may be used.
#pragma once

#include <cstdint>

#include "core/status.h"

enum danlu_letter : uint8_t { kLetter = 1, kNumber = 2, kSpace = 4, kUnknown = 8 };

struct danlu_bpe;

// classes: danlu_letter of every character below class_count, the rest have none; byte_ids (256): the token of each byte;
// merges (count, 3): left, right and joined token, best first. Returns null when there is no memory.
DANLU_API danlu_bpe* danlu_bpe_new(const uint8_t* classes, int64_t class_count, const int32_t* byte_ids,
                                   const int32_t* merges, int64_t count);
DANLU_API void danlu_bpe_free(danlu_bpe* bpe);

// ids: room for a token for each byte; counts (texts): tokens of each text, -1 where a character is unknown (no ids then).
DANLU_API int danlu_bpe_encode(danlu_bpe* bpe, const uint8_t* bytes, const int64_t* ends, int64_t texts, int32_t* ids,
                               int64_t* counts);

struct danlu_bpe_counts;

// How often each word stands in texts; classes as above.
DANLU_API danlu_bpe_counts* danlu_bpe_counts_new(const uint8_t* classes, int64_t class_count);
DANLU_API void danlu_bpe_counts_free(danlu_bpe_counts* counts);

// Count the words of texts, or with are_words each text as one word. unknown (texts): 1 where a character is unknown; such a
// text is not counted.
DANLU_API int danlu_bpe_count(danlu_bpe_counts* counts, const uint8_t* bytes, const int64_t* ends, int64_t texts,
                              int32_t are_words, uint8_t* unknown);

// Learn merges until the tokens reach `vocab` or no pair is left. byte_ids (256): the token of each byte, those below the least
// are special; merges (room, 3): left, right and joined token. Returns their number, -1 without memory, -2 without room: two
// merges may spell the same token.
DANLU_API int64_t danlu_bpe_learn(const danlu_bpe_counts* counts, const int32_t* byte_ids, int64_t vocab, int32_t* merges,
                                  int64_t room);
