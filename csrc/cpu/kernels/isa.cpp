#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

// Returns whether the processor has AMX and the kernel lets this process use it. The symbol is visible so that tests
// can replace it and emulate the instructions.
extern "C" __attribute__((visibility("default"), noinline)) bool tokenprune_amx_is_available() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return __builtin_cpu_supports("amx-bf16") && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

namespace tokenprune::cpu {

std::string name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::amx:
      return "amx";
    default:
      return "portable";
  }
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas{Isa::portable};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
      __builtin_cpu_supports("popcnt"))
    isas.push_back(Isa::avx2);
  if (isas.back() == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    isas.push_back(Isa::avx512);
  if (isas.back() == Isa::avx512 && __builtin_cpu_supports("avx512bf16")) isas.push_back(Isa::avx512_bf16);
  if (isas.back() == Isa::avx512_bf16 && tokenprune_amx_is_available()) isas.push_back(Isa::amx);
#endif
  return isas;
}

namespace {

// Throws std::runtime_error in the name of `source` if the set is not supported.
Isa supported_isa(const std::string& source, const std::string& requested) {
  std::string names;
  for (const Isa isa : supported_isas()) {
    if (name(isa) == requested) return isa;
    names += (names.empty() ? "" : ", ") + name(isa);
  }
  throw std::runtime_error(source + ": expected one of " + names + " (what this processor and build support), got '" +
                           requested + "'");
}

Isa default_isa() {
  constexpr const char* kVariable = "TOKENPRUNE_CPU_ISA";
  const char* requested = std::getenv(kVariable);
  if (requested == nullptr || *requested == '\0') return supported_isas().back();
  return supported_isa(kVariable, requested);
}

std::atomic<Isa>& selected_isa() {
  static std::atomic<Isa> isa{default_isa()};
  return isa;
}

}  // namespace

Isa current_isa() { return selected_isa(); }

void force_isa(const std::string& name) {
  selected_isa() = name.empty() ? default_isa() : supported_isa("_force_isa", name);
}

}  // namespace tokenprune::cpu
