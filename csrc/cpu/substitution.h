// The inner loop of a Cholesky factorisation that grows row by row.
#pragma once

#include <cstdint>

namespace tokenprune::cpu {

// values[q] -= factors[l * stride_factors] * matrix[l * stride_matrix + q] for q in [0, width) and l = 0, 1, ... in
// turn. Each product and each difference is rounded, so that a value has the same bits whatever it is computed beside,
// on every instruction set.
using SubtractProducts = void (*)(float* values, std::int64_t width, const float* factors, std::int64_t stride_factors,
                                  const float* matrix, std::int64_t stride_matrix, std::int64_t count);

// That of the current instruction set.
SubtractProducts subtract_products();

}  // namespace tokenprune::cpu
