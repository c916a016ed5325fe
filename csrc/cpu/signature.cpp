#include "signature.h"

#include "isa.h"

namespace tokenprune::cpu {
namespace {

#define TOKENPRUNE_TARGET
namespace portable {
#include "signature.inc"
}
#undef TOKENPRUNE_TARGET

#if defined(__x86_64__)
// Every processor with AVX2 has it.
#define TOKENPRUNE_TARGET __attribute__((target("popcnt")))
namespace popcnt {
#include "signature.inc"
}
#undef TOKENPRUNE_TARGET
#endif

}  // namespace

MostAlike most_alike() {
#if defined(__x86_64__)
  if (current_isa() != Isa::portable) return popcnt::most_alike;
#endif
  return portable::most_alike;
}

}  // namespace tokenprune::cpu
