// The row operators of a training step for any CPU.
#include "train/train.h"

DANLU_TRAIN(ref)
