// Which comparison of signatures the processors with AVX-512 use: not all of them count bits in vectors.
#pragma once

#include "kernels.h"

namespace tokenprune::cpu {

MostAlike with_vpopcntdq(MostAlike otherwise);

}  // namespace tokenprune::cpu
