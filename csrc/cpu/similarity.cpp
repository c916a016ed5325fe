#include "similarity.h"

#include <type_traits>

#include "isa.h"

namespace tokenprune::cpu {

#define TOKENPRUNE_DECLARE_PATH(isa) \
  namespace isa {                    \
  template <class T>                 \
  DotProducts<T> products();         \
  }
TOKENPRUNE_DECLARE_PATH(portable)
#if defined(__x86_64__)
TOKENPRUNE_DECLARE_PATH(avx2)
TOKENPRUNE_DECLARE_PATH(avx512)
TOKENPRUNE_DECLARE_PATH(avx512_bf16)
TOKENPRUNE_DECLARE_PATH(amx)
#endif

template <class T>
DotProducts<T> dot_products() {
  switch (current_isa()) {
#if defined(__x86_64__)
    case Isa::amx:
      return amx::products<T>();
    case Isa::avx512_bf16:
      if constexpr (std::is_same_v<T, BFloat16>) return avx512_bf16::products<T>();
      [[fallthrough]];
    case Isa::avx512:
      return avx512::products<T>();
    case Isa::avx2:
      return avx2::products<T>();
#endif
    default:
      return portable::products<T>();
  }
}

template DotProducts<float> dot_products<float>();
template DotProducts<BFloat16> dot_products<BFloat16>();
template DotProducts<Half> dot_products<Half>();

}  // namespace tokenprune::cpu
