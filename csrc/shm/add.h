// Sums of what the ranks wrote in a turn, in the order of ranks.
#pragma once

#include "shm/turn.h"

// out[i] = sum over ranks of element `first + i` of the slots, for `count` elements of a number format: halves are added
// in fp32 and rounded once. False for an unknown format.
bool add_slots(const danlu_shm& shm, int number, int64_t first, int64_t count, void* out);

// Bytes of one number; 0 for an unknown format.
int64_t number_bytes(int number);
