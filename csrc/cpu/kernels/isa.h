// The instruction sets that the kernels are written for, and the one in use.
#pragma once

#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

#include "elements.h"

namespace tokenprune::cpu {

enum class Isa { portable, avx2, avx512, avx512_bf16, amx };  // slowest first

std::string name(Isa isa);

// Returns the sets that were compiled in and that this processor can run, slowest first.
std::vector<Isa> supported_isas();

// Returns the fastest supported set, or the one that the environment variable TOKENPRUNE_CPU_ISA names. The variable is
// read once. Throws std::runtime_error if it names a set that is not supported.
Isa current_isa();

// Replaces the current set; an empty name restores the default. For tests, while no selection runs.
void force_isa(const std::string& name);

// Returns the set whose kernels process elements of type T. AVX-512 BF16 and AMX multiply bfloat16 alone; the other
// types take the AVX-512 kernels there.
template <class T>
Isa isa_for() {
  return std::is_same_v<T, BFloat16> ? current_isa() : std::min(current_isa(), Isa::avx512);
}

}  // namespace tokenprune::cpu
