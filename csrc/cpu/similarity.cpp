#include "similarity.h"

#include "isa.h"

namespace tokenprune::cpu {

#define TOKENPRUNE_DECLARE_TILE(isa)                                                                          \
  namespace isa {                                                                                             \
  template <class T>                                                                                          \
  void tile(const T*, std::int64_t, std::int64_t, const T*, std::int64_t, std::int64_t, std::int64_t, float*, \
            std::int64_t);                                                                                    \
  }
TOKENPRUNE_DECLARE_TILE(portable)
#if defined(__x86_64__)
TOKENPRUNE_DECLARE_TILE(avx2)
TOKENPRUNE_DECLARE_TILE(avx512)
#endif

template <class T>
DotTile<T> dot_tile() {
  switch (current_isa()) {
#if defined(__x86_64__)
    case Isa::avx512:
      return avx512::tile<T>;
    case Isa::avx2:
      return avx2::tile<T>;
#endif
    default:
      return portable::tile<T>;
  }
}

template DotTile<float> dot_tile<float>();
template DotTile<BFloat16> dot_tile<BFloat16>();
template DotTile<Half> dot_tile<Half>();

}  // namespace tokenprune::cpu
