// The row operators of a training step with AVX2: the plain loops, compiled for eight lanes.
#if defined(__x86_64__)
#define DANLU_TARGET __attribute__((target("avx2,fma")))
#include "train/train.h"

DANLU_TRAIN(avx2)
#endif
