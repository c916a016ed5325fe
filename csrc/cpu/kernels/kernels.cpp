#include "kernels.h"

#include <type_traits>

#include "isa.h"

namespace tokenprune::cpu {

#define TOKENPRUNE_DECLARE(isa) \
  namespace isa {               \
  template <class T>            \
  Kernels<T> kernels();         \
  }
TOKENPRUNE_DECLARE(portable)
#if defined(__x86_64__)
TOKENPRUNE_DECLARE(avx2)
TOKENPRUNE_DECLARE(avx512)
TOKENPRUNE_DECLARE(avx512_bf16)
TOKENPRUNE_DECLARE(amx)
#endif
#undef TOKENPRUNE_DECLARE

template <class T>
Kernels<T> current_kernels() {
#if defined(__x86_64__)
  const Isa isa = isa_for<T>();
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (isa == Isa::amx) return amx::kernels<T>();
    if (isa == Isa::avx512_bf16) return avx512_bf16::kernels<T>();
  }
  if (isa == Isa::avx512) return avx512::kernels<T>();
  if (isa == Isa::avx2) return avx2::kernels<T>();
#endif
  return portable::kernels<T>();
}

template Kernels<float> current_kernels<float>();
template Kernels<BFloat16> current_kernels<BFloat16>();
template Kernels<Half> current_kernels<Half>();

}  // namespace tokenprune::cpu
