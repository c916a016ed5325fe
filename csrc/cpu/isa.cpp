#include "isa.h"

#include <cstdlib>
#include <stdexcept>

namespace tokenprune::cpu {

std::string name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_bf16:
      return "avx512_bf16";
    default:
      return "portable";
  }
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas{Isa::portable};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    isas.push_back(Isa::avx2);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    isas.push_back(Isa::avx512);
  if (isas.back() == Isa::avx512 && __builtin_cpu_supports("avx512bf16")) isas.push_back(Isa::avx512_bf16);
#endif
  return isas;
}

namespace {

Isa decide() {
  const auto isas = supported_isas();
  const char* requested = std::getenv("TOKENPRUNE_CPU_ISA");
  if (requested == nullptr || *requested == '\0') return isas.back();
  std::string names;
  for (const Isa isa : isas) {
    if (name(isa) == requested) return isa;
    names += (names.empty() ? "" : ", ") + name(isa);
  }
  throw std::invalid_argument("TOKENPRUNE_CPU_ISA: expected one of " + names +
                              " (what this processor and build support), got '" + requested + "'");
}

}  // namespace

Isa current_isa() {
  static const Isa isa = decide();
  return isa;
}

}  // namespace tokenprune::cpu
