#include "substitution.h"

#include <algorithm>
#include <cstring>

#include "isa.h"

namespace tokenprune::cpu {
namespace {

constexpr std::int64_t kVectorSize = 16;

#define TOKENPRUNE_TARGET
namespace portable {
#include "substitution.inc"
}
#undef TOKENPRUNE_TARGET

#if defined(__x86_64__)
#define TOKENPRUNE_TARGET __attribute__((target("avx2")))
namespace avx2 {
#include "substitution.inc"
}
#undef TOKENPRUNE_TARGET

#define TOKENPRUNE_TARGET __attribute__((target("avx512f")))
namespace avx512 {
#include "substitution.inc"
}
#undef TOKENPRUNE_TARGET
#endif

}  // namespace

SubtractProducts subtract_products() {
  switch (current_isa()) {
#if defined(__x86_64__)
    case Isa::amx:
    case Isa::avx512_bf16:
    case Isa::avx512:
      return avx512::subtract_products;
    case Isa::avx2:
      return avx2::subtract_products;
#endif
    default:
      return portable::subtract_products;
  }
}

}  // namespace tokenprune::cpu
