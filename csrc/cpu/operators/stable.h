// The part of torch that the operators use: its stable interface alone, so that one file runs beside every torch since
// TORCH_TARGET_VERSION, which setup.py sets.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

// The OpenMP runtime that torch runs on, if it runs on one: the stable interface does not say whether torch is in a
// parallel region.
extern "C" __attribute__((weak)) int omp_in_parallel();

namespace tokenprune::cpu {

using torch::stable::Tensor;
using DType = torch::headeronly::ScalarType;
using Shape = torch::headeronly::IntHeaderOnlyArrayRef;

inline bool in_parallel_region() { return omp_in_parallel != nullptr && omp_in_parallel() != 0; }

}  // namespace tokenprune::cpu
