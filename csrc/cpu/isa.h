// Which instruction set the native backend computes with.
#pragma once

#include <string>
#include <vector>

namespace tokenprune::cpu {

enum class Isa { portable, avx2, avx512, avx512_bf16, amx };

std::string name(Isa isa);

// What was compiled in and this processor can run, slowest first.
std::vector<Isa> supported_isas();

// The fastest supported one, or the one named by TOKENPRUNE_CPU_ISA. Decided once per process.
// Throws std::invalid_argument when the variable names something else.
Isa current_isa();

}  // namespace tokenprune::cpu
